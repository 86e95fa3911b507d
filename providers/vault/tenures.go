package vault

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// maxReleased is how many ended tenures are kept in mind.
const maxReleased = 4096

// tenures are what volumes have from the server, by key. Safe for concurrent
// use.
type tenures struct {
	background sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	known    map[string]*tenure
	released map[string]bool // keys that must not come back
}

// keep keeps a tenure until it ends, which it may do later than it was known
// to. What it replaced ends once the volume has had it for a while.
func (ts *tenures) keep(t *tenure) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if ts.closed {
		return
	}
	ts.known[t.Key] = t
	if t.timer != nil {
		t.timer.Stop()
	}
	t.timer = time.AfterFunc(time.Until(t.end()), func() { ts.expire(t) })
	if old := t.replaces; old != nil && t.matured(time.Now()) {
		t.replaces = nil
		ts.remove(old)
	}
}

// remove forgets a tenure and revokes it in the background. The caller holds
// ts.mu.
func (ts *tenures) remove(t *tenure) {
	if t.timer != nil {
		t.timer.Stop()
	}
	delete(ts.known, t.Key)
	if t.session == nil {
		return
	}
	ts.background.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), tidyTimeout)
		defer cancel()
		_ = t.revoke(ctx, t.session) // else it ends by itself
	})
}

// expire forgets a tenure that has ended, and its token, which may live on.
func (ts *tenures) expire(t *tenure) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if !ts.closed && ts.known[t.Key] == t && !time.Now().Before(t.end()) {
		ts.remove(t)
	}
}

// drop gives up a tenure that no volume got.
func (ts *tenures) drop(t *tenure) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.remove(t)
}

// get returns the tenure of a claim; after a restart, one that resumes it. It
// is nil for a claim that was given back, or that is of somebody else.
func (ts *tenures) get(c claim, expires time.Time) *tenure {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	switch t := ts.known[c.Key]; {
	case t != nil && t.Identity == c.Identity:
		return t
	case t != nil || ts.released[c.Key]:
		return nil
	default:
		return c.resumed(expires)
	}
}

// isReleased reports whether the tenure of that key was given back.
func (ts *tenures) isReleased(key string) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return ts.released[key]
}

// forget notes that a tenure was given back.
func (ts *tenures) forget(t *tenure) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if t.timer != nil {
		t.timer.Stop()
	}
	delete(ts.known, t.Key)
	if len(ts.released) >= maxReleased {
		clear(ts.released)
	}
	ts.released[t.Key] = true
}

// close waits for what is in progress, which is bounded. Tokens live on.
func (ts *tenures) close() {
	ts.mu.Lock()
	ts.closed = true
	for _, t := range ts.known {
		if t.timer != nil {
			t.timer.Stop()
		}
	}
	ts.mu.Unlock()
	ts.background.Wait()
}

// Release implements provider.Releaser. It fails with provider.ErrUnavailable
// while the server cannot be reached, and after a restart until a volume of
// the same identity has logged in.
func (p *Provider) Release(ctx context.Context, lease provider.Lease) error {
	c, ok := parseClaim(lease.ID)
	if !ok || p.tenures.isReleased(c.Key) {
		return nil
	}
	t := p.tenures.get(c, lease.Expires)
	if t == nil {
		return nil
	}
	bearer := t.session
	if bearer == nil {
		bearer = p.sessions.peek(c.Identity)
	}
	if bearer == nil {
		return fmt.Errorf("revoke leases: a restart has lost their token, and nobody of their identity has logged in since; they will end by themselves: %w", provider.ErrUnavailable)
	}
	if err := t.revoke(ctx, bearer); err != nil {
		return err
	}
	p.tenures.forget(t)
	return nil
}
