package class_test

import (
	"errors"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/class"
)

// FuzzRotation gives arbitrary text as the interval of a class: it is refused
// in few words, or it is never, or as often as a store can bear.
func FuzzRotation(f *testing.F) {
	for _, text := range []string{"", "0", "1s", "999ms", "8760h", "8761h", "-1s", "1h1m1.5s", "9223372036854775807ns", "1e3s", "+5m", "١s"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		c := &class.Class{Name: class.Name{Namespace: "shop", Name: "app"}, Parameters: map[string]string{class.RotationInterval: text}}
		got, err := c.Rotation(time.Minute)
		switch {
		case err != nil && (!errors.Is(err, class.ErrInvalid) || got != 0 || len(err.Error()) > 600):
			t.Errorf("Rotation = %v, %v; want a short error that wraps %v", got, err, class.ErrInvalid)
		case err == nil && got != 0 && (got < time.Second || got > 366*24*time.Hour):
			t.Errorf("Rotation of %q = %v", text, got)
		}
	})
}
