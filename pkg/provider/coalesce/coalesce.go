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
// fetch runs in a goroutine that ends with it; a fetch that nobody waits for
// any more is cancelled.
type Group struct {
	opts   *Options
	secret [32]byte // of the keys

	mu      sync.Mutex
	closed  bool
	flights map[key][]*flight // that may serve others; in the order of their beginning
	timer   *time.Timer       // runs sweep when the first result expires; nil if none waits
}

// New returns a Group; nil options mean the defaults.
func New(opts *Options) *Group {
	g := &Group{opts: opts, flights: map[key][]*flight{}}
	_, _ = rand.Read(g.secret[:]) // never fails
	return g
}

// Middleware returns the decorator that shares fetches.
func (g *Group) Middleware() provider.Middleware {
	return func(name string, next provider.Provider) provider.Provider {
		return &shared{group: g, name: name, next: next}
	}
}

// Close drops all results and lets no request share from now on. Fetches in
// flight go on for those who wait for them. It is idempotent.
func (g *Group) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	g.keep(func(*flight) bool { return false })
	return nil
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
