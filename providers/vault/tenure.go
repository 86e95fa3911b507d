package vault

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// A tenure is what one volume has from the server for a time: leases and
// certificates, all taken with one token that is for nothing else. So the
// token is renewed while the volume lives, and revoking it revokes all.
//
// The server ends leases with the token that they were taken with. That is why
// the token is not revoked when the provider stops: pods go on.
type tenure struct {
	claim
	session  *session // nil after a restart: the token is gone, the leases are not
	answers  map[string]*response
	replaces *tenure // what the volume had before, until it has shown this one

	mu    sync.Mutex
	timer *time.Timer
}

// A claim is the part of a tenure that the driver remembers as the ID of the
// lease. It is no secret, and is the same for the whole tenure.
type claim struct {
	Key      string  `json:"k"`
	Identity string  `json:"i"`           // whose sessions may renew it
	Issued   int64   `json:"t"`           // Unix seconds
	Deadline int64   `json:"d,omitempty"` // when the token dies that nobody renews
	Terms    []*term `json:"l"`
}

// maxClaim is what the wire protocol lets an ID be.
const maxClaim = 4096

// id returns the claim as the ID of a lease.
func (c *claim) id() (string, error) {
	text, err := json.Marshal(c)
	if err != nil || len(text) > maxClaim {
		return "", fmt.Errorf("the leases of %d answers are more than a volume can remember: %w", len(c.Terms), provider.ErrInvalid)
	}
	return string(text), nil
}

// parseClaim reads the ID of a lease. It may come from anybody.
func parseClaim(id string) (claim, bool) {
	var c claim
	if len(id) > maxClaim || json.Unmarshal([]byte(id), &c) != nil || c.Key == "" || len(c.Terms) == 0 || slices.Contains(c.Terms, nil) {
		return claim{}, false
	}
	return c, true
}

// newTenure returns the tenure of what a session has just been issued.
func newTenure(s *session, terms []*term, now time.Time) *tenure {
	t := &tenure{session: s, answers: make(map[string]*response)}
	t.claim = claim{Key: rand.Text(), Identity: s.identity, Issued: now.Unix(), Terms: terms}
	if end := s.end(); !end.IsZero() {
		t.Deadline = end.Unix()
	}
	return t
}

// resumed returns the tenure of a claim from before a restart. When its leases
// were granted is not known, so all are due.
func (c claim) resumed(expires time.Time) *tenure {
	t := &tenure{claim: c}
	for _, term := range t.Terms {
		term.granted, term.expires = time.Unix(c.Issued, 0), expires
		term.renewable = term.Lease != ""
		if term.Lease == "" {
			term.expires = term.granted.Add(seconds(term.Lifetime))
		}
	}
	return t
}

// covers reports whether the tenure is of what the read answers.
func (c *claim) covers(r *read) bool {
	return slices.ContainsFunc(c.Terms, func(t *term) bool { return t.Read == r.digest })
}

// wanes reports whether the token that the leases were taken with nears its
// end, and they with it. It is asked of a tenure that lost its token, which
// nobody renews.
func (c *claim) wanes(now time.Time) bool {
	life := float64(c.Deadline - c.Issued)
	return c.Deadline > 0 && now.Unix() >= c.Issued+int64(keepPart*life)
}

// matured reports whether the volume has had the tenure for so long that
// nobody uses what was there before.
func (c *claim) matured(now time.Time) bool {
	age := now.Sub(time.Unix(c.Issued, 0))
	return !slices.ContainsFunc(c.Terms, func(t *term) bool {
		return age.Seconds() < keepPart*float64(t.Lifetime)
	})
}

// answer returns what is known of a read that the tenure covers, or nil.
func (t *tenure) answer(r *read) *answer {
	if t == nil || !t.covers(r) {
		return nil
	}
	return &answer{kind: generated, version: t.Key, response: t.answers[r.digest]}
}

// end returns when the first part of the tenure ends.
func (t *tenure) end() time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	var end time.Time
	switch {
	case t.session != nil:
		end = t.session.end()
	case t.Deadline > 0:
		end = time.Unix(t.Deadline, 0)
	}
	for _, term := range t.Terms {
		if end.IsZero() || term.expires.Before(end) {
			end = term.expires
		}
	}
	return end
}

// errOver says that a tenure cannot go on, and that all of it must be issued
// anew.
var errOver = errors.New("the leases cannot be renewed any further")

// renew renews what is due, with the session of the tenure or, after a
// restart, another one of the identity. The error wraps errOver once the end
// of a part is fixed.
func (t *tenure) renew(ctx context.Context, other func(context.Context) (*session, error)) error {
	now := time.Now()
	if !now.Before(t.end()) {
		return errOver
	}
	if err := t.renewToken(ctx, now); err != nil {
		return err
	}
	for _, term := range t.Terms {
		t.mu.Lock()
		due, renewable := !now.Before(term.due()), term.renewable
		t.mu.Unlock()
		switch {
		case !due:
			continue
		case !renewable:
			return errOver
		}
		s, err := t.bearer(ctx, other)
		if err != nil {
			return err
		}
		if err := t.renewTerm(ctx, s, term); err != nil {
			return err
		}
	}
	return nil
}

// bearer returns the session to renew with.
func (t *tenure) bearer(ctx context.Context, other func(context.Context) (*session, error)) (*session, error) {
	if t.session != nil {
		return t.session, nil
	}
	return other(ctx)
}

// renewToken renews the tenure's own token if that is due.
func (t *tenure) renewToken(ctx context.Context, now time.Time) error {
	if t.session == nil || !t.session.own || t.session.end().IsZero() || now.Before(t.session.at(keepPart)) {
		return nil
	}
	if !t.session.canRenew() {
		return errOver
	}
	full, err := t.session.renew(ctx)
	return over(full, err)
}

// renewTerm renews one lease.
func (t *tenure) renewTerm(ctx context.Context, s *session, term *term) error {
	response, err := s.do(ctx, post("sys/leases/renew", map[string]string{"lease_id": term.Lease, "increment": strconv.FormatInt(term.Lifetime, 10)}))
	if err != nil {
		return over(false, fmt.Errorf("renew the lease: %w", err))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	term.granted = time.Now()
	term.expires = term.granted.Add(response.lease)
	term.renewable = response.renewable
	return over(!capped(response.lease, seconds(term.Lifetime)), nil)
}

// over turns a refusal, and less than was asked for, into errOver. An outage
// stays one: what is held is good until it ends.
func over(full bool, err error) error {
	switch {
	case errors.Is(err, provider.ErrUnavailable):
		return err
	case err != nil, !full:
		return errOver
	default:
		return nil
	}
}

// revoke ends the tenure at the server: by its token if that is ours, else
// lease by lease, for which the policy must allow it.
func (t *tenure) revoke(ctx context.Context, s *session) error {
	if t.session != nil && t.session.own && !t.session.batch {
		return t.session.revoke(ctx)
	}
	var failed error
	for _, term := range t.Terms {
		if err := revokeLease(ctx, s, term.Lease); err != nil {
			failed = errors.Join(failed, err)
		}
	}
	return failed
}

// revokeLease ends one lease. One that the server does not know has ended.
func revokeLease(ctx context.Context, s *session, id string) error {
	if id == "" {
		return nil
	}
	_, err := s.do(ctx, post("sys/leases/revoke", map[string]string{"lease_id": id}))
	switch {
	case status(err) == http.StatusBadRequest:
		return nil
	case err != nil:
		return fmt.Errorf("revoke a lease (a policy must allow update of sys/leases/revoke): %w", err)
	default:
		return nil
	}
}
