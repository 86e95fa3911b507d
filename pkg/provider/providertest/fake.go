package providertest

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// ParameterObjects and ParameterLease are the parameters that Fake
// understands: a YAML list of objects, each with the keys of FakeObject, and
// the name of a role that credentials are leased for.
const (
	ParameterObjects = "objects"
	ParameterLease   = "lease"
)

// A Fake is a real, small store of secrets in memory, and the provider that
// reads it: a provider.Provider, a provider.Releaser and a provider.Notifier.
// Tests of other packages use it where they need a provider; Request makes a
// request that it understands. The zero Fake is empty and ready, and safe for
// concurrent use. Its waits are timers and channels, so it works in a
// testing/synctest bubble.
type Fake struct {
	mu       sync.Mutex
	objects  map[string][]byte
	leases   map[string]*fakeLease // by lease ID
	denied   map[string]bool
	expired  map[string]bool
	broken   bool
	hung     chan struct{} // closed by Resume; nil if the store answers
	waiting  chan struct{} // closed by the first call that hangs
	delay    time.Duration
	leaseTTL time.Duration
	refresh  time.Duration
	key      []byte // of the versions
	issued   int
	fetches  int
	releases int
	watchers map[*fakeWatcher]struct{}
}

type fakeLease struct {
	credentials []byte
	expires     time.Time
}

// Put stores a copy of value under name, and tells those who watch.
func (f *Fake) Put(name string, value []byte) {
	f.change(name, func() {
		if f.objects == nil {
			f.objects = map[string][]byte{}
		}
		f.objects[name] = append([]byte{}, value...)
		delete(f.expired, name)
	})
}

// Expire makes every fetch of the object succeed with a warning, until it is
// Put again.
func (f *Fake) Expire(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.expired == nil {
		f.expired = map[string]bool{}
	}
	f.expired[name] = true
}

// Delete removes the object of that name, and tells those who watch.
func (f *Fake) Delete(name string) { f.change(name, func() { delete(f.objects, name) }) }

// Deny makes every fetch of the object fail with provider.ErrDenied.
func (f *Fake) Deny(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.denied == nil {
		f.denied = map[string]bool{}
	}
	f.denied[name] = true
}

// Allow ends Deny.
func (f *Fake) Allow(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.denied, name)
}

// Break makes Fetch and Release fail with provider.ErrUnavailable, until Repair.
func (f *Fake) Break() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = true
}

// Repair ends Break.
func (f *Fake) Repair() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = false
}

// Hang makes Fetch and Release wait until their context ends or Resume is
// called. The channel is closed once a call waits.
func (f *Fake) Hang() (waiting <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hung == nil {
		f.hung, f.waiting = make(chan struct{}), make(chan struct{})
	}
	return f.waiting
}

// Resume ends Hang; calls that waited go on.
func (f *Fake) Resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hung != nil {
		close(f.hung)
		f.hung = nil
	}
}

// Delay makes every later Fetch and Release take at least d.
func (f *Fake) Delay(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay = d
}

// LeaseFor sets how long leases live from now on; an hour unless told.
func (f *Fake) LeaseFor(ttl time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.leaseTTL = ttl
}

// RefreshAfter makes bundles ask to be refreshed after d; zero means that
// they leave it to the driver.
func (f *Fake) RefreshAfter(d time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refresh = d
}

// Fetches returns how many times Fetch was called.
func (f *Fake) Fetches() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fetches
}

// Releases returns how many times Release was called.
func (f *Fake) Releases() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.releases
}

// Leases returns how many leases are alive.
func (f *Fake) Leases() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	alive := 0
	for _, lease := range f.leases {
		if time.Now().Before(lease.expires) {
			alive++
		}
	}
	return alive
}

// Fetch implements provider.Provider.
func (f *Fake) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	f.mu.Lock()
	f.fetches++
	f.mu.Unlock()
	objects, err := parseObjects(req)
	if err != nil {
		return nil, err
	}
	if err := f.reach(ctx); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	bundle, err := f.read(objects, req)
	if err != nil {
		return nil, err
	}
	if role := req.Parameters[ParameterLease]; role != "" {
		f.lease(bundle, role, req.Held.Lease)
	}
	if len(req.Held.Versions) > 0 && bundle.Versions.Equal(req.Held.Versions) {
		bundle.Unchanged, bundle.Files = true, nil
	}
	if f.refresh > 0 {
		bundle.Refresh = time.Now().Add(f.refresh)
	}
	return bundle, nil
}

// Release implements provider.Releaser.
func (f *Fake) Release(ctx context.Context, lease provider.Lease) error {
	f.mu.Lock()
	f.releases++
	f.mu.Unlock()
	if err := f.reach(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.leases, lease.ID)
	return nil
}

// reach is the way to the store, with all that may happen there.
func (f *Fake) reach(ctx context.Context) error {
	f.mu.Lock()
	hung, waiting, delay := f.hung, f.waiting, f.delay
	f.mu.Unlock()
	if hung != nil {
		f.once(waiting)
		select {
		case <-hung:
		case <-ctx.Done():
		}
	}
	if delay > 0 {
		timer := time.NewTimer(delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("fake store: %w: %w", provider.ErrUnavailable, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return fmt.Errorf("fake store is out of order: %w", provider.ErrUnavailable)
	}
	return nil
}

// once closes the channel unless it is closed.
func (f *Fake) once(waiting chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-waiting:
	default:
		close(waiting)
	}
}

// version returns a keyed hash of an object, so that neither a guess at the
// value nor two equal values can be recognized. The caller holds f.mu.
func (f *Fake) version(name string, value []byte) string {
	if f.key == nil {
		f.key = make([]byte, sha256.Size)
		_, _ = rand.Read(f.key) // never fails
	}
	mac := hmac.New(sha256.New, f.key)
	fmt.Fprintf(mac, "%d:%s", len(name), name)
	mac.Write(value)
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
