package providertest

import (
	"context"
	"slices"
	"sync"
	"testing"
)

// A scope is a part of a test that ends before the test does: its clean-ups
// run, and its context ends, at close.
type scope struct {
	testing.TB
	ctx    context.Context
	cancel context.CancelFunc

	mu    sync.Mutex
	after []func()
}

func newScope(t testing.TB) *scope {
	ctx, cancel := context.WithCancel(t.Context())
	return &scope{TB: t, ctx: ctx, cancel: cancel}
}

// Context returns a context that ends just before the clean-ups run.
func (s *scope) Context() context.Context { return s.ctx }

// Cleanup registers f to run at close, the last one first.
func (s *scope) Cleanup(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after = append(s.after, f)
}

func (s *scope) close() {
	s.cancel()
	s.mu.Lock()
	after := s.after
	s.mu.Unlock()
	for _, f := range slices.Backward(after) {
		f()
	}
}
