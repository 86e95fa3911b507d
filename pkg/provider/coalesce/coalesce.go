// Package coalesce makes one fetch serve many volumes. Volumes of one
// provider, class, identity (namespace and service account), parameters and
// credentials ask for the same secrets; while one of them asks, and for a
// moment afterwards, the others take its answer.
//
// What must not be shared is not: an error outlives its call for nobody, a
// lease belongs to one volume, "unchanged" is true only of those who hold the
// same versions, and a token that has expired neither fetches for others nor
// is served by them.
package coalesce

import (
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// Options adjust a Group.
type Options struct {
	// TTL is how long a result serves after its fetch. Default: 1 s. Negative
	// means that only fetches in flight are shared.
	TTL time.Duration
	// Observe is called at the end of each Fetch with the provider's name and
	// how the request was served. It may be called concurrently. Default: none.
	Observe func(provider string, how How)
	// GiveBack ends a lease that the provider of a name issued after everybody
	// had gone. Default: the provider is asked once, for at most 10 s.
	GiveBack func(provider string, lease provider.Lease)
}

// How a request was served.
type How string

const (
	Fetched How = "fetched" // by a call of its own
	Joined  How = "joined"  // by a call that another request had begun
	Cached  How = "cached"  // by the result of a call that had ended
)

func (o *Options) ttl() time.Duration {
	if o == nil || o.TTL == 0 {
		return time.Second
	}
	return o.TTL
}

func (o *Options) observe(provider string, how How) {
	if o != nil && o.Observe != nil {
		o.Observe(provider, how)
	}
}

// A Group shares fetches between all providers that its Middleware wraps, by
// their names, however often the provider of a name is looked up. It is safe
// for concurrent use.
//
// Results wait in memory for at most the TTL, and are dropped by one timer. A
// fetch runs in a goroutine that ends with it, and for which Close waits; a
// fetch that nobody waits for any more is cancelled.
type Group struct {
	opts   *Options
	secret [32]byte // of the keys

	mu      sync.Mutex
	closed  bool
	flights map[key][]*flight // that may serve others; in the order of their beginning
	flying  map[*flight]bool  // all whose goroutines run
	timer   *time.Timer       // runs sweep when the first result expires; nil if none waits
}

// New returns a Group; nil options mean the defaults.
func New(opts *Options) *Group {
	g := &Group{opts: opts, flights: map[key][]*flight{}, flying: map[*flight]bool{}}
	_, _ = rand.Read(g.secret[:]) // never fails
	return g
}

// Middleware returns the decorator that shares fetches.
func (g *Group) Middleware() provider.Middleware {
	return func(name string, next provider.Provider) provider.Provider {
		return &shared{group: g, name: name, next: next}
	}
}

// closeTimeout bounds how long Close waits.
const closeTimeout = 2 * time.Second

// Close drops all results, cancels the fetches in flight and waits until they
// have ended; every later fetch fails with provider.ErrUnavailable. A provider
// that ignores its context does not hold Close up for longer than two seconds:
// the error then says how many fetches are left behind. Close may be called
// again.
func (g *Group) Close() error {
	timeout := time.After(closeTimeout)
	for _, f := range g.shut() {
		select {
		case <-f.over:
		case <-timeout:
			return g.leftBehind()
		}
	}
	return nil
}

// shut closes the group, and returns the flights that it cancelled.
func (g *Group) shut() []*flight {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.keep(func(*flight) bool { return false })
	for f := range g.flying {
		f.cancel()
	}
	return slices.Collect(maps.Keys(g.flying))
}

// leftBehind returns an error that counts the flights that go on, if any do.
func (g *Group) leftBehind() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.flying) == 0 {
		return nil
	}
	names := map[string]bool{}
	for f := range g.flying {
		names[f.provider.name] = true
	}
	return fmt.Errorf("fetches that go on %v after they were cancelled: %d (of %s)",
		closeTimeout, len(g.flying), strings.Join(slices.Sorted(maps.Keys(names)), ", "))
}

// drop forgets the results of a provider, and lets nobody join the fetches
// that it is making.
func (g *Group) drop(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.keep(func(f *flight) bool { return f.provider.name != name })
}

// sweep forgets the results that have expired.
func (g *Group) sweep() {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	g.keep(func(f *flight) bool { return !f.ended() || now.Before(f.until) })
}
