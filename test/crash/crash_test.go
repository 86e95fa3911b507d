// Package crash kills a real driver process at random moments of publish,
// rotation and unpublish, starts it again, and checks that nothing is lost
// and nothing is left.
package crash

import (
	"context"
	mathrand "math/rand/v2"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/tmpfs/userns"
)

func TestMain(m *testing.M) { os.Exit(userns.Main(m)) }

const (
	volumes      = 6
	filesEach    = 100
	defaultRound = 25
)

// rounds is KILL_ROUNDS, or a number that keeps `make test` short.
func rounds(t *testing.T) int {
	text := os.Getenv("KILL_ROUNDS")
	if text == "" {
		return defaultRound
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("KILL_ROUNDS is %q, want a number", text)
	}
	return n
}

func TestNothingIsLostOrLeftWhenTheDriverIsKilled(t *testing.T) {
	n := newNode(t)
	total := rounds(t)
	for round := range total {
		n.start()
		n.settle()
		n.mustBecomeTidy(round)
		if round%2 == 0 {
			n.work(func(ctx context.Context) { pause(ctx, time.Duration(2+mathrand.IntN(80))*time.Millisecond) }, volumes)
		} else {
			n.publishAll()
			n.work(n.rotation, 0)
		}
		n.mustBeWhole(round)
		n.mustKeepTheSecret(round)
	}
	n.start()
	n.settle()
	n.removeAll()
	n.stop(syscall.SIGTERM)
	n.mustBeEmpty()
	n.mustKeepTheSecret(total)
	if n.rotations == 0 || n.cut["publish"] == 0 || n.cut["unpublish"] == 0 {
		t.Error("the rounds did not meet publish, unpublish and rotation")
	}
	t.Logf("%d kills cut short %d publishes, %d unpublishes and %d rotations; %d volumes were seen with a new secret",
		total, n.cut["publish"], n.cut["unpublish"], n.cut["rotation"], n.rotations)
}
