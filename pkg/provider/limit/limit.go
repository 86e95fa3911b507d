// Package limit bounds how long a call of a provider may take, and how many
// run at once, so that one slow backend neither holds kubelet's calls for ever
// nor is buried under a node that restarts. Pods that wait to start come
// before volumes that have something to show already.
//
// One namespace takes at most half of a provider's places, rounded up: a
// store that never answers stops those who use it, not their neighbours.
//
// A volume whose class was edited holds nothing that is still true, so its
// next refresh looks like a first publish and may take a reserved place.
package limit

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// Options adjust a Group.
type Options struct {
	// Timeout bounds one Fetch, the wait for a place included. Default: 90 s,
	// which is below kubelet's two minutes.
	Timeout time.Duration
	// Concurrent is how many calls of one provider run at once, at most half
	// of them for one namespace. Default: 16.
	Concurrent int
	// Reserved is how many of those places only first publishes may take.
	// Default: 4. At least one place is open to refreshes.
	Reserved int
}

func (o *Options) timeout() time.Duration {
	if o == nil || o.Timeout <= 0 {
		return 90 * time.Second
	}
	return o.Timeout
}

func (o *Options) concurrent() int {
	if o == nil || o.Concurrent <= 0 {
		return 16
	}
	return o.Concurrent
}

func (o *Options) reserved() int {
	reserved := 4
	if o != nil && o.Reserved > 0 {
		reserved = o.Reserved
	}
	return min(reserved, o.concurrent()-1)
}

// A Group limits the calls of each provider by its name, however often the
// provider of that name is looked up and wrapped. It is safe for concurrent
// use, and starts no goroutine.
type Group struct {
	opts *Options

	mu    sync.Mutex
	gates map[string]*gate // by provider name
}

// New returns a Group; nil options mean the defaults.
func New(opts *Options) *Group { return &Group{opts: opts, gates: map[string]*gate{}} }

// Middleware returns the decorator that applies the limits.
func (g *Group) Middleware() provider.Middleware {
	return func(name string, next provider.Provider) provider.Provider {
		return &limited{name: name, next: next, gate: g.gate(name), timeout: g.opts.timeout()}
	}
}

func (g *Group) gate(name string) *gate {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.gates[name] == nil {
		g.gates[name] = newGate(g.opts.concurrent(), g.opts.reserved())
	}
	return g.gates[name]
}

// limited is a provider behind the gate of its name.
type limited struct {
	name    string
	next    provider.Provider
	gate    *gate
	timeout time.Duration
}

// errTimeout is the cause of a context that our own deadline ended.
var errTimeout = errors.New("timeout")

// Fetch implements provider.Provider. The error wraps provider.ErrUnavailable
// if there was no place or no answer in time.
func (l *limited) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	own := time.Now().Add(l.timeout)
	ctx, cancel := context.WithDeadlineCause(ctx, own, errTimeout)
	defer cancel()
	leave, err := l.gate.enter(ctx, kindOf(req.Held), req.Pod.Namespace)
	if err != nil {
		return nil, l.noPlace(ctx, own, req.Pod.Namespace, err)
	}
	defer leave()
	bundle, err := l.next.Fetch(ctx, req)
	if err != nil && timedOut(ctx, own) && !final(err) {
		return nil, fmt.Errorf("provider %q did not answer within %v: %w", l.name, l.timeout, provider.ErrUnavailable)
	}
	return bundle, err
}

// Unwrap returns the provider behind the gate.
func (l *limited) Unwrap() provider.Provider { return l.next }

func (l *limited) noPlace(ctx context.Context, own time.Time, namespace string, err error) error {
	if timedOut(ctx, own) {
		return fmt.Errorf("provider %q is busy: none of its %d places was free within %v (namespace %q may take %d of them): %w",
			l.name, l.gate.places, l.timeout, namespace, l.gate.share, provider.ErrUnavailable)
	}
	return fmt.Errorf("provider %q is busy: %w: %w", l.name, provider.ErrUnavailable, err)
}

// early is how long before our own deadline the timer of the provider's
// process, which was told of the deadline, may end a call.
const early = 100 * time.Millisecond

// timedOut reports whether it is our own deadline that ended a call.
func timedOut(ctx context.Context, own time.Time) bool {
	deadline, _ := ctx.Deadline()
	return errors.Is(context.Cause(ctx), errTimeout) || deadline.Equal(own) && time.Until(own) < early
}

// final reports whether err is an answer, which stays one even if it is late.
func final(err error) bool {
	return errors.Is(err, provider.ErrInvalid) || errors.Is(err, provider.ErrNotFound) || errors.Is(err, provider.ErrDenied)
}
