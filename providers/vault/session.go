package vault

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/keymount/keymount/pkg/secret"
)

// A session is one token of the server. It is safe for concurrent use.
type session struct {
	conn      *connection
	namespace string
	identity  string
	token     secret.Value
	own       bool // made by a login: ours to renew and to revoke
	batch     bool // which the server can neither renew nor revoke
	born      time.Time

	mu        sync.Mutex
	lifetime  time.Duration // that it was made with; zero: no end
	granted   time.Time     // when the server last said how long it lives
	expires   time.Time     // zero: never
	renewable bool

	// vouched says that the session was denied something although it was new:
	// what the server says of the token itself would tell nothing.
	vouched atomic.Bool
}

// adopt takes over what a login says of the token.
func (s *session) adopt(a *auth) {
	s.token, s.own, s.batch = a.token, true, a.kind == "batch"
	s.lifetime, s.granted, s.renewable = a.lifetime, time.Now(), a.renewable && a.lifetime > 0
	if a.lifetime > 0 {
		s.expires = s.granted.Add(a.lifetime)
	}
}

// do makes a call with the token.
func (s *session) do(ctx context.Context, c call) (*response, error) {
	c.token, c.namespace = s.token, s.namespace
	return s.conn.do(ctx, c)
}

// usable reports whether the token will live for a moment more.
func (s *session) usable(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expires.IsZero() || now.Before(s.expires.Add(-s.lifetime/20))
}

// end returns when the token dies if nobody renews it; zero: never.
func (s *session) end() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.expires
}

// at returns when that part of the token's life has passed.
func (s *session) at(part float64) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.granted.Add(time.Duration(part * float64(s.expires.Sub(s.granted))))
}

// canRenew reports whether the server would let the token live on.
func (s *session) canRenew() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.renewable
}

// renew makes the token live on. It reports whether the token got all the life
// that it began with: less means that its end is near and fixed.
func (s *session) renew(ctx context.Context) (full bool, err error) {
	response, err := s.do(ctx, call{method: http.MethodPost, path: "auth/token/renew-self"})
	if err != nil {
		return false, fmt.Errorf("renew the token: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if response.auth == nil {
		s.renewable = false
		return false, nil
	}
	s.granted = time.Now()
	s.expires = s.granted.Add(response.auth.lifetime)
	full = !capped(response.auth.lifetime, s.lifetime)
	s.renewable = full
	return full, nil
}

// capped reports whether the server granted less than asked for, because
// something that it renews has reached its longest life.
func capped(granted, asked time.Duration) bool { return granted < asked-asked/10-time.Second/2 }

// alive reports whether the server still knows the token.
func (s *session) alive(ctx context.Context) bool {
	_, err := s.do(ctx, call{method: http.MethodGet, path: "auth/token/lookup-self"})
	return err == nil
}

// revoke ends the token, and every lease that was taken with it. A token that
// the server does not know any more is as good as revoked, and so is one that
// is not ours or that cannot be.
func (s *session) revoke(ctx context.Context) error {
	if !s.own || s.batch {
		return nil
	}
	_, err := s.do(ctx, call{method: http.MethodPost, path: "auth/token/revoke-self"})
	if status(err) == http.StatusForbidden {
		return nil
	}
	return err
}
