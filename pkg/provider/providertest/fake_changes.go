package providertest

import (
	"context"
	"testing"

	"github.com/keymount/keymount/pkg/provider"
)

// A fakeWatcher is one running call of Changes.
type fakeWatcher struct {
	names []string      // changed and not yet told; guarded by Fake.mu
	wake  chan struct{} // has room for one
}

// change applies what happens to the object of that name and wakes watchers.
func (f *Fake) change(name string, apply func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	apply()
	for w := range f.watchers {
		w.names = append(w.names, name)
		select {
		case w.wake <- struct{}{}:
		default: // is awake already
		}
	}
}

// Changes implements provider.Notifier. After the first, empty ID it tells of
// each Put and Delete that follows the call, in order.
func (f *Fake) Changes(ctx context.Context, changed func(objectID string)) error {
	w := &fakeWatcher{names: []string{""}, wake: make(chan struct{}, 1)}
	w.wake <- struct{}{}
	f.mu.Lock()
	if f.watchers == nil {
		f.watchers = map[*fakeWatcher]struct{}{}
	}
	f.watchers[w] = struct{}{}
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.watchers, w)
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		}
		f.mu.Lock()
		names := w.names
		w.names = nil
		f.mu.Unlock()
		for _, name := range names {
			changed(name)
		}
	}
}

// Backend returns f as a Backend that implements every optional interface of
// the suite.
func (f *Fake) Backend() Backend { return fakeBackend{f} }

type fakeBackend struct{ fake *Fake }

func (b fakeBackend) Provider() provider.Provider                 { return b.fake }
func (b fakeBackend) Put(_ testing.TB, name string, value []byte) { b.fake.Put(name, value) }
func (b fakeBackend) Delete(_ testing.TB, name string)            { b.fake.Delete(name) }
func (b fakeBackend) Deny(_ testing.TB, name string)              { b.fake.Deny(name) }
func (b fakeBackend) Expire(_ testing.TB, name string)            { b.fake.Expire(name) }
func (b fakeBackend) Break(testing.TB)                            { b.fake.Break() }
func (b fakeBackend) Repair(testing.TB)                           { b.fake.Repair() }
func (b fakeBackend) Leases(testing.TB) int                       { return b.fake.Leases() }

func (b fakeBackend) Request(_ testing.TB, objects ...Object) *provider.Request {
	return b.fake.Request(objects...)
}

func (b fakeBackend) Hang(t testing.TB) (waiting <-chan struct{}) {
	t.Cleanup(b.fake.Resume)
	return b.fake.Hang()
}

func (b fakeBackend) LeaseRequest(testing.TB) *provider.Request {
	req := b.fake.Request()
	req.Parameters[ParameterLease] = "database"
	return req
}
