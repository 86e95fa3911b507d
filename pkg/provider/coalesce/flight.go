package coalesce

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// A flight is one call of a provider, and its result.
type flight struct {
	provider *shared
	key      key
	held     provider.Held // with which it asks
	cancel   context.CancelFunc
	done     chan struct{} // closed once there is a result
	over     chan struct{} // closed once its goroutine has nothing left to do

	// Guarded by Group.mu; the result does not change once done is closed.
	until     time.Time // no new request is served from then on; zero: no limit
	waiters   int
	ownerless bool // the request that began it has gone
	taken     bool // its lease has a volume
	bundle    *provider.Bundle
	err       error
}

// ended reports whether there is a result.
func (f *flight) ended() bool {
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// welcomes reports whether a new request may take part at now.
func (f *flight) welcomes(held provider.Versions, now time.Time) bool {
	switch {
	case !f.until.IsZero() && !now.Before(f.until):
		return false
	case f.ended():
		return f.holdsFor(held)
	default:
		return len(f.held.Versions) == 0 || f.held.Versions.Equal(held)
	}
}

// holdsFor reports whether the bundle is true of any volume that holds held.
func (f *flight) holdsFor(held provider.Versions) bool {
	switch {
	case !f.bundle.Lease.IsZero():
		return false
	case f.bundle.Unchanged:
		// A provider that writes files itself says so too, of its own volume
		// and with new versions.
		return known(f.bundle.Versions) && f.bundle.Versions.Equal(held)
	default:
		return true
	}
}

// known reports whether the versions tell one content from another: an empty
// version means that the provider does not know.
func known(versions provider.Versions) bool {
	for _, version := range versions {
		if version == "" {
			return false
		}
	}
	return len(versions) > 0
}

// orphan returns the lease that the flight got and that nobody is there to
// take. A lease that was only renewed stays with its volume. The caller holds
// Group.mu.
func (f *flight) orphan() provider.Lease {
	if f.waiters > 0 || f.err != nil || f.bundle.Lease.ID == f.held.Lease.ID {
		return provider.Lease{}
	}
	return f.bundle.Lease
}

// begin starts a flight with one waiter, which nobody can find yet. After
// Close, it is one that has failed. The caller holds Group.mu.
func (g *Group) begin(ctx context.Context, s *shared, req *provider.Request, k key) *flight {
	req = clone(req)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &flight{
		provider: s, key: k, held: req.Held, cancel: cancel, done: make(chan struct{}), over: make(chan struct{}),
		until: expiry(req.Tokens), waiters: 1,
	}
	if g.closed {
		cancel()
		f.err = fmt.Errorf("provider %q is not asked any more, because the process stops: %w", s.name, provider.ErrUnavailable)
		close(f.done)
		return f
	}
	g.flying[f] = true
	go g.fly(ctx, f, req)
	return f
}

// fly asks the provider and hands out its answer. A panic of the provider is
// an error, and its value, which may show a secret, is dropped.
func (g *Group) fly(ctx context.Context, f *flight, req *provider.Request) {
	defer g.end(f)
	var bundle *provider.Bundle
	err := fmt.Errorf("provider %q panicked: %w", f.provider.name, provider.ErrUnavailable)
	defer func() {
		_ = recover()
		g.land(ctx, f, bundle, err)
	}()
	bundle, err = f.provider.next.Fetch(ctx, req)
	if bundle == nil && err == nil {
		err = fmt.Errorf("provider %q answered with nothing: %w", f.provider.name, provider.ErrUnavailable)
	}
}

// end counts the flight out.
func (g *Group) end(f *flight) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f.cancel()
	delete(g.flying, f)
	close(f.over)
}

// land hands out the result of a flight.
func (g *Group) land(ctx context.Context, f *flight, bundle *provider.Bundle, err error) {
	g.mu.Lock()
	f.bundle, f.err = bundle, err
	close(f.done)
	g.settle(f)
	orphan := f.orphan()
	g.mu.Unlock()
	f.provider.giveBack(ctx, orphan)
}

// sweepAfter is how long results stay in memory at most that nobody is given any
// more, so that many are removed at once.
const sweepAfter = 100 * time.Millisecond

// settle keeps the result of a flight for those who come later, if it may be
// kept and nothing has changed since it began. The caller holds g.mu.
func (g *Group) settle(f *flight) {
	if !slices.Contains(g.flights[f.key], f) {
		return
	}
	now := time.Now()
	if f.err == nil {
		f.until = earlier(earlier(f.until, f.bundle.Refresh), now.Add(g.opts.ttl()))
	}
	if f.err != nil || !f.bundle.Lease.IsZero() || !now.Before(f.until) {
		g.remove(f)
		return
	}
	if g.timer == nil {
		g.timer = time.AfterFunc(f.until.Sub(now)+sweepAfter, g.sweep)
	}
}

// leave counts a waiter out, and cancels the flight after the last one. It
// reports whether there is a result instead.
func (g *Group) leave(f *flight, owner bool) (ended bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f.ended() {
		return true
	}
	f.waiters--
	f.ownerless = f.ownerless || owner
	if f.waiters == 0 {
		f.cancel()
		g.remove(f)
	}
	return false
}

// errOthers: the result is true of other volumes only.
var errOthers = errors.New("the answer is for other volumes")

// take returns a copy of the result, or errOthers if it says nothing of a
// volume that holds held. The owner is the request that began the flight.
func (g *Group) take(f *flight, owner bool, held provider.Versions) (*provider.Bundle, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case f.err != nil:
		return nil, f.err
	case owner || f.holdsFor(held):
	case f.ownerless && !f.taken && !f.bundle.Unchanged:
		f.taken = true // the owner has left a lease behind
	default:
		return nil, errOthers
	}
	own := *f.bundle
	own.Files = slices.Clone(own.Files)
	own.Versions = maps.Clone(own.Versions)
	own.Warnings = slices.Clone(own.Warnings)
	return &own, nil
}

// find returns the flight begun last that a request may take part in, or nil.
// The caller holds g.mu.
func (g *Group) find(k key, held provider.Versions, now time.Time) *flight {
	for _, f := range slices.Backward(g.flights[k]) {
		if f.welcomes(held, now) {
			return f
		}
	}
	return nil
}

// remove lets nobody find the flight any more. The caller holds g.mu.
func (g *Group) remove(f *flight) {
	rest := slices.DeleteFunc(g.flights[f.key], func(other *flight) bool { return other == f })
	if g.flights[f.key] = rest; len(rest) == 0 {
		delete(g.flights, f.key)
	}
}

// keep removes the flights that are not wanted, and sets the timer for the
// first result of the others to expire. The caller holds g.mu.
func (g *Group) keep(wanted func(*flight) bool) {
	var next time.Time
	for k, flights := range g.flights {
		rest := slices.DeleteFunc(flights, func(f *flight) bool { return !wanted(f) })
		if g.flights[k] = rest; len(rest) == 0 {
			delete(g.flights, k)
		}
		for _, f := range rest {
			if f.ended() {
				next = earlier(next, f.until)
			}
		}
	}
	if g.timer != nil {
		g.timer.Stop()
		g.timer = nil
	}
	if !next.IsZero() {
		g.timer = time.AfterFunc(time.Until(next)+sweepAfter, g.sweep)
	}
}
