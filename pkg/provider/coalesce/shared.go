package coalesce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// releaseTimeout bounds how long a lease that nobody took is given back.
const releaseTimeout = 10 * time.Second

// shared is a provider whose fetches are shared. It is a provider.Notifier
// where the provider behind it is one.
type shared struct {
	group *Group
	name  string
	next  provider.Provider
}

// Fetch implements provider.Provider. It returns as soon as ctx ends, even if
// the provider does not.
func (s *shared) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	if ctx.Err() != nil {
		return nil, s.gone(ctx)
	}
	f, how := s.group.board(ctx, s, req)
	defer func() { s.group.opts.observe(s.name, how) }()
	bundle, err := s.wait(ctx, f, how == Fetched, req.Held.Versions)
	if errors.Is(err, errOthers) {
		how = Fetched
		bundle, err = s.wait(ctx, s.group.alone(ctx, s, req), true, req.Held.Versions)
	}
	return bundle, err
}

// board returns the flight that serves a request: one that it may share, else
// a new one.
func (g *Group) board(ctx context.Context, s *shared, req *provider.Request) (*flight, How) {
	now := time.Now()
	if !shareable(req, now) {
		return g.alone(ctx, s, req), Fetched
	}
	k := g.key(s.name, req)
	g.mu.Lock()
	defer g.mu.Unlock()
	f := g.find(k, req.Held.Versions, now)
	switch {
	case f == nil:
		f = g.begin(ctx, s, req, k)
		if !g.closed {
			g.flights[k] = append(g.flights[k], f)
		}
		return f, Fetched
	case f.ended():
		return f, Cached
	default:
		f.waiters++
		return f, Joined
	}
}

// alone returns a new flight that serves no other request.
func (g *Group) alone(ctx context.Context, s *shared, req *provider.Request) *flight {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.begin(ctx, s, req, key{})
}

// wait returns the result of the flight as take does, or an error when ctx ends.
func (s *shared) wait(ctx context.Context, f *flight, owner bool, held provider.Versions) (*provider.Bundle, error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		if !s.group.leave(f, owner) {
			return nil, s.gone(ctx)
		}
	}
	return s.group.take(f, owner, held)
}

// gone is the error of a request that does not wait any more.
func (s *shared) gone(ctx context.Context) error {
	return fmt.Errorf("provider %q has not answered yet: %w: %w", s.name, provider.ErrUnavailable, ctx.Err())
}

// giveBack ends a lease that was issued after everybody had gone, if there is
// one. By default it is a best effort: the backend ends the lease in the end.
func (s *shared) giveBack(ctx context.Context, lease provider.Lease) {
	if lease.IsZero() {
		return
	}
	if opts := s.group.opts; opts != nil && opts.GiveBack != nil {
		opts.GiveBack(s.name, lease)
		return
	}
	releaser, ok := provider.As[provider.Releaser](s.next)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	_ = releaser.Release(ctx, lease)
}

// Changes implements provider.Notifier. Before it tells of a change, it
// forgets the results from before. The error wraps errors.ErrUnsupported if
// the provider is no Notifier.
func (s *shared) Changes(ctx context.Context, changed func(objectID string)) error {
	notifier, ok := provider.As[provider.Notifier](s.next)
	if !ok {
		return fmt.Errorf("provider %q does not tell of changes: %w", s.name, errors.ErrUnsupported)
	}
	return notifier.Changes(ctx, func(objectID string) {
		s.group.drop(s.name)
		changed(objectID)
	})
}

// Unwrap returns the provider whose fetches are shared.
func (s *shared) Unwrap() provider.Provider { return s.next }
