package limit

import (
	"context"
	"slices"
	"sync"

	"github.com/keymount/keymount/pkg/provider"
)

// A kind of call decides which places it may take.
type kind int

const (
	first   kind = iota // a pod waits for it
	refresh             // the volume holds something already
	kinds
)

func kindOf(held provider.Held) kind {
	if len(held.Versions) == 0 && held.Lease.IsZero() {
		return first
	}
	return refresh
}

// A gate lets a bounded number of calls through, each kind in the order of
// its arrival.
type gate struct {
	places   int // for all
	reserved int // of them, not for refresh

	mu      sync.Mutex
	running [kinds]int
	queue   [kinds][]chan struct{} // closed to let the waiter in
}

func newGate(places, reserved int) *gate { return &gate{places: places, reserved: reserved} }

// enter waits for a place. Without error, the caller must leave.
func (g *gate) enter(ctx context.Context, k kind) error {
	turn := make(chan struct{})
	g.mu.Lock()
	g.queue[k] = append(g.queue[k], turn)
	g.admit()
	g.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		g.abandon(k, turn)
		return ctx.Err()
	}
}

// leave gives the place back.
func (g *gate) leave(k kind) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running[k]--
	g.admit()
}

// abandon leaves the queue, or the place that was given at the same moment.
func (g *gate) abandon(k kind, turn chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.queue[k], turn); i >= 0 {
		g.queue[k] = slices.Delete(g.queue[k], i, i+1)
		return
	}
	g.running[k]--
	g.admit()
}

// admit lets in all that have room. The caller holds g.mu.
func (g *gate) admit() {
	for k := range kinds {
		for len(g.queue[k]) > 0 && g.room(k) {
			close(g.queue[k][0])
			g.queue[k] = g.queue[k][1:]
			g.running[k]++
		}
	}
}

// room reports whether one more of that kind may run. The caller holds g.mu.
func (g *gate) room(k kind) bool {
	switch {
	case g.running[first]+g.running[refresh] >= g.places:
		return false
	case k == refresh:
		return g.running[refresh] < g.places-g.reserved
	default:
		return true
	}
}
