package class_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/keymount/keymount/pkg/class"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRotation(t *testing.T) {
	const fallback = 2 * time.Minute
	tests := []struct {
		name       string
		parameters map[string]string
		want       time.Duration
		wantErr    error
	}{
		{"no parameters give the fallback", nil, fallback, nil},
		{"other parameters give the fallback", map[string]string{"objects": "x"}, fallback, nil},
		{"an interval wins over the fallback", map[string]string{class.RotationInterval: "30s"}, 30 * time.Second, nil},
		{"an interval may be shorter than the fallback", map[string]string{class.RotationInterval: "1s"}, time.Second, nil},
		{"an interval may be long", map[string]string{class.RotationInterval: "24h"}, 24 * time.Hour, nil},
		{"zero is never", map[string]string{class.RotationInterval: "0"}, 0, nil},
		{"zero seconds is never", map[string]string{class.RotationInterval: "0s"}, 0, nil},
		{"empty is invalid", map[string]string{class.RotationInterval: ""}, 0, class.ErrInvalid},
		{"a bare number is invalid", map[string]string{class.RotationInterval: "30"}, 0, class.ErrInvalid},
		{"a negative interval is invalid", map[string]string{class.RotationInterval: "-1h"}, 0, class.ErrInvalid},
		{"less than a second is invalid", map[string]string{class.RotationInterval: "999ms"}, 0, class.ErrInvalid},
		{"a year is allowed", map[string]string{class.RotationInterval: "8760h"}, 8760 * time.Hour, nil},
		{"more than a year is invalid", map[string]string{class.RotationInterval: "8761h"}, 0, class.ErrInvalid},
		{"words are invalid", map[string]string{class.RotationInterval: "never"}, 0, class.ErrInvalid},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := &class.Class{Parameters: test.parameters}
			got, err := c.Rotation(fallback)
			if got != test.want || !errors.Is(err, test.wantErr) {
				t.Errorf("Rotation(%v) of %v = %v, %v, want %v, %v", fallback, test.parameters, got, err, test.want, test.wantErr)
			}
		})
	}
}

func TestProviderParameters(t *testing.T) {
	c := &class.Class{Parameters: map[string]string{"objects": "x", class.RotationInterval: "1h"}}
	got := c.ProviderParameters()
	if diff := cmp.Diff(map[string]string{"objects": "x"}, got); diff != "" {
		t.Errorf("ProviderParameters (-want +got):\n%s", diff)
	}
	got["objects"] = "changed"
	if diff := cmp.Diff(map[string]string{"objects": "x", class.RotationInterval: "1h"}, c.Parameters); diff != "" {
		t.Errorf("the class after its copy was changed (-want +got):\n%s", diff)
	}
}
