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

// A gate lets a bounded number of calls through. First calls come before
// refreshes. Of one kind, the namespace with the fewest calls in the gate
// comes first, and those that have as many come in the order of their arrival.
type gate struct {
	places   int // for all
	reserved int // of them, not for refresh
	share    int // of them, at most for one namespace

	mu      sync.Mutex
	running [kinds]int
	inside  map[string]int // namespace -> calls of both kinds; no zeros
	queue   [kinds][]*waiter
}

// A waiter is a call at the gate.
type waiter struct {
	kind      kind
	namespace string
	turn      chan struct{} // closed to let it in
}

func newGate(places, reserved int) *gate {
	return &gate{places: places, reserved: reserved, share: (places + 1) / 2, inside: map[string]int{}}
}

// enter waits for a place. Without error, the caller must call leave.
func (g *gate) enter(ctx context.Context, k kind, namespace string) (leave func(), err error) {
	w := &waiter{kind: k, namespace: namespace, turn: make(chan struct{})}
	g.mu.Lock()
	g.queue[k] = append(g.queue[k], w)
	g.admit()
	g.mu.Unlock()
	select {
	case <-w.turn:
		return func() { g.leave(w) }, nil
	case <-ctx.Done():
		g.leave(w)
		return nil, ctx.Err()
	}
}

// leave gives the place of w back, or its place in the queue.
func (g *gate) leave(w *waiter) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if i := slices.Index(g.queue[w.kind], w); i >= 0 {
		g.queue[w.kind] = slices.Delete(g.queue[w.kind], i, i+1)
		return
	}
	g.running[w.kind]--
	if g.inside[w.namespace]--; g.inside[w.namespace] == 0 {
		delete(g.inside, w.namespace)
	}
	g.admit()
}

// admit lets in all that have room. The caller holds g.mu.
func (g *gate) admit() {
	for k := range kinds {
		for g.room(k) {
			i := g.next(k)
			if i < 0 {
				break
			}
			w := g.queue[k][i]
			g.queue[k] = slices.Delete(g.queue[k], i, i+1)
			g.running[k]++
			g.inside[w.namespace]++
			close(w.turn)
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

// next returns the position in the queue of the call whose turn it is, or -1
// if all are of namespaces that have their share. The caller holds g.mu.
func (g *gate) next(k kind) int {
	next, fewest := -1, g.share
	for i, w := range g.queue[k] {
		if n := g.inside[w.namespace]; n < fewest {
			next, fewest = i, n
		}
	}
	return next
}
