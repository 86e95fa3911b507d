package registration

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestWaitsDoubleUpToAMinute(t *testing.T) {
	var got []time.Duration
	for _, failures := range []int{0, 1, 2, 5, 6, 7, 1000} {
		got = append(got, (*Options)(nil).wait(failures))
	}
	want := []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 32 * time.Second, time.Minute, time.Minute, time.Minute}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("waits (-want +got):\n%s", diff)
	}
}
