package vault

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

const (
	maxSessions  = 1000             // tokens that are kept
	idleTime     = 15 * time.Minute // after which a token that nobody uses is revoked
	loginTimeout = 30 * time.Second
	renewPart    = 2. / 3 // of a token's life, after which it is renewed
)

// sessions are the tokens in use, one for each identity. A token is renewed by
// a timer while it is used and revoked when it no longer is. Safe for
// concurrent use.
type sessions struct {
	background sync.WaitGroup

	mu     sync.Mutex
	closed bool
	known  map[string]*entry // by identity
}

// An entry is the token of an identity, or the login that will give it one.
type entry struct {
	session *session
	used    time.Time
	timer   *time.Timer
	flight  *flight // nil while nobody logs in
}

// A flight is a login that several fetches wait for. It is cancelled when the
// last of them has gone.
type flight struct {
	identity string
	done     chan struct{}
	cancel   context.CancelFunc
	waiters  int // guarded by sessions.mu
	session  *session
	err      error
}

// beginner logs in.
type beginner func(ctx context.Context) (*session, error)

// get returns the session of an identity, which begin makes if there is none.
func (s *sessions) get(ctx context.Context, identity string, begin beginner) (*session, error) {
	ready, f, err := s.board(ctx, identity, begin)
	if ready != nil || err != nil {
		return ready, err
	}
	return s.wait(ctx, f)
}

// board returns a session that is ready, or the flight to wait for.
func (s *sessions) board(ctx context.Context, identity string, begin beginner) (*session, *flight, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	e := s.known[identity]
	switch {
	case s.closed:
		return nil, nil, fmt.Errorf("the provider stops: %w", provider.ErrUnavailable)
	case e == nil:
		s.makeRoom()
		e = &entry{}
		s.known[identity] = e
	case e.session != nil && e.session.usable(now):
		e.used = now
		return e.session, nil, nil
	}
	if e.flight == nil {
		e.flight = s.depart(ctx, identity, begin)
	}
	e.flight.waiters++
	return nil, e.flight, nil
}

// depart logs in, in the background. The caller holds s.mu.
func (s *sessions) depart(ctx context.Context, identity string, begin beginner) *flight {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), loginTimeout)
	f := &flight{identity: identity, done: make(chan struct{}), cancel: cancel}
	s.background.Go(func() {
		defer cancel()
		f.session, f.err = begin(ctx)
		s.land(f)
	})
	return f
}

// land hands out the result of a login.
func (s *sessions) land(f *flight) {
	defer close(f.done)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e := s.known[f.identity]; {
	case e == nil || e.flight != f || s.closed:
		s.discard(f.session)
	case f.err != nil:
		s.abandon(e, f)
	default:
		e.flight = nil
		s.replace(e, f.identity, f.session)
	}
}

// abandon lets nobody join a flight any more. The caller holds s.mu.
func (s *sessions) abandon(e *entry, f *flight) {
	if e == nil || e.flight != f {
		return
	}
	e.flight = nil
	if e.session == nil {
		delete(s.known, f.identity)
	}
}

// wait returns the result of a login, or an error when ctx ends first.
func (s *sessions) wait(ctx context.Context, f *flight) (*session, error) {
	select {
	case <-f.done:
		return f.session, f.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.waiters--; f.waiters == 0 {
		f.cancel()
		s.abandon(s.known[f.identity], f)
	}
	return nil, fmt.Errorf("failed to login: %w: %w", context.Cause(ctx), provider.ErrUnavailable)
}

// replace gives an entry its session. The caller holds s.mu.
func (s *sessions) replace(e *entry, identity string, fresh *session) {
	e.session, e.used = fresh, time.Now()
	if e.timer != nil {
		e.timer.Stop()
	}
	e.timer = time.AfterFunc(time.Until(e.next()), func() { s.tend(identity, fresh) })
}

// next returns when something is to be done for the entry.
func (e *entry) next() time.Time {
	next := e.used.Add(idleTime)
	due := e.session.end()
	if e.session.canRenew() {
		due = e.session.at(renewPart)
	}
	if !due.IsZero() && due.Before(next) {
		next = due
	}
	return next
}

// offer keeps a session that somebody else has no more use for.
func (s *sessions) offer(spare *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	identity := spare.identity
	if _, taken := s.known[identity]; taken || s.closed {
		s.discard(spare)
		return
	}
	s.makeRoom()
	e := &entry{}
	s.known[identity] = e
	s.replace(e, identity, spare)
}

// peek returns the session of an identity, or nil.
func (s *sessions) peek(identity string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.known[identity]; e != nil && e.session != nil && e.session.usable(time.Now()) {
		return e.session
	}
	return nil
}

// drop forgets a session that the server does not accept.
func (s *sessions) drop(old *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.known[old.identity]; e != nil && e.session == old {
		s.remove(old.identity, e)
	}
}

// remove forgets an entry, unless somebody logs in for it. The caller holds
// s.mu.
func (s *sessions) remove(identity string, e *entry) {
	if e.timer != nil {
		e.timer.Stop()
	}
	e.session = nil
	if e.flight == nil {
		delete(s.known, identity)
	}
}

// tend renews a session, or revokes it if nobody has used it for long.
func (s *sessions) tend(identity string, tended *session) {
	s.mu.Lock()
	e := s.known[identity]
	if s.closed || e == nil || e.session != tended {
		s.mu.Unlock()
		return
	}
	now := time.Now()
	if !now.Before(e.used.Add(idleTime)) || !tended.usable(now) {
		s.remove(identity, e)
		s.discard(tended)
		s.mu.Unlock()
		return
	}
	s.background.Add(1)
	defer s.background.Done()
	s.mu.Unlock()

	pause := s.renew(tended, now)

	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.known[identity]; !s.closed && e != nil && e.session == tended {
		at := time.Now().Add(pause)
		if next := e.next(); next.After(at) {
			at = next
		}
		e.timer.Reset(time.Until(at))
	}
}

// renew renews a session that is due, and returns how long to wait at least
// until the next attempt.
func (s *sessions) renew(tended *session, now time.Time) time.Duration {
	if !tended.canRenew() || now.Before(tended.at(renewPart)) {
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), tidyTimeout)
	defer cancel()
	_, err := tended.renew(ctx)
	if code := status(err); code >= 400 && code < 500 && code != 412 && code != 429 {
		s.drop(tended)
	}
	if err != nil {
		return max(time.Second, tended.lifetime/20)
	}
	return 0
}

// makeRoom lets the session go that was used longest ago, if there are too
// many. The caller holds s.mu.
func (s *sessions) makeRoom() {
	if len(s.known) < maxSessions {
		return
	}
	var oldest string
	for identity, e := range s.known {
		if e.flight == nil && (oldest == "" || e.used.Before(s.known[oldest].used)) {
			oldest = identity
		}
	}
	if e := s.known[oldest]; e != nil {
		s.discard(e.session)
		s.remove(oldest, e)
	}
}

// discard revokes a session, in the background. The caller holds s.mu.
func (s *sessions) discard(old *session) {
	if old == nil {
		return
	}
	s.background.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), tidyTimeout)
		defer cancel()
		_ = old.revoke(ctx) // else it dies at its end
	})
}

// close revokes all sessions, and waits for what is in progress; all of that
// is bounded.
func (s *sessions) close() {
	s.mu.Lock()
	s.closed = true
	for identity, e := range s.known {
		if e.flight != nil {
			e.flight.cancel()
		}
		s.discard(e.session)
		s.remove(identity, e)
	}
	s.mu.Unlock()
	s.background.Wait()
}
