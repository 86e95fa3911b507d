package vault

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// recall returns the tenure that the volume holds, renewed as far as it is
// due; nil if there is none that can go on.
func (f *fetch) recall(ctx context.Context) (*tenure, error) {
	c, ok := parseClaim(f.held.Lease.ID)
	if !ok || c.Identity != f.login.identity {
		return nil, nil
	}
	t := f.tenures.get(c, f.held.Lease.Expires)
	if t == nil {
		return nil, nil
	}
	f.before = t
	if !f.covers(t) || t.session == nil && (len(f.held.Versions) == 0 || t.wanes(time.Now())) {
		return nil, nil
	}
	switch err := t.renew(ctx, f.own); {
	case errors.Is(err, errOver):
		return nil, nil
	case err != nil:
		return nil, err
	}
	f.tenures.keep(t)
	return t, nil
}

// covers reports whether all that the tenure is for is still asked for.
func (f *fetch) covers(t *tenure) bool {
	for _, term := range t.Terms {
		if !slices.ContainsFunc(f.reads, func(r *read) bool { return r.digest == term.Read }) {
			return false
		}
	}
	return true
}

// issue makes the wanted reads, which may be leased, with a token of their
// own. If the volume had leases before, it gets all of them anew.
func (f *fetch) issue(ctx context.Context, wanted func(*answer) bool) error {
	var pending, held []*read
	for _, r := range f.reads {
		switch {
		case wanted(f.answers[r]):
			pending = append(pending, r)
		case f.lease.answer(r) != nil:
			held = append(held, r)
		}
	}
	if len(pending) == 0 {
		return nil
	}
	pending = append(pending, held...)
	s, err := f.begin(ctx)
	if err != nil {
		return f.failed(pending[0], err)
	}
	now := time.Now()
	err = f.each(ctx, pending, func(ctx context.Context, r *read) error {
		response, err := s.do(ctx, r.call())
		return f.take(r, response, err)
	})
	if err != nil {
		f.tenures.drop(newTenure(s, f.terms(pending, now), now))
		return err
	}
	f.settle(s, pending, now)
	return nil
}

// terms returns those of the answers that have an end.
func (f *fetch) terms(reads []*read, now time.Time) (terms []*term) {
	for _, r := range reads {
		if a := f.answers[r]; a != nil && a.response != nil {
			if t, ok := termOf(r, a.response, now); ok {
				terms = append(terms, &t)
			}
		}
	}
	return terms
}

// settle makes a tenure of what was issued, if any of it has an end.
func (f *fetch) settle(s *session, reads []*read, now time.Time) {
	terms := f.terms(reads, now)
	t := newTenure(s, terms, now)
	for _, r := range reads {
		a := f.answers[r]
		switch {
		case a.absent:
			continue
		case t.covers(r):
			a.kind, a.version = generated, t.Key
			t.answers[r.digest] = a.response
		default:
			a.kind = plain
		}
		f.learned.set(f.login.identity, r, a.kind)
	}
	if len(terms) == 0 {
		f.lease = nil
		f.sessions.offer(s)
		return
	}
	t.replaces = f.before
	f.lease, f.issued = t, t
	f.tenures.keep(t)
}

// bundle adds what the driver must know of the tenure. A volume that holds
// nothing else need not be looked at before that is due.
func (f *fetch) bundle(b *provider.Bundle) (*provider.Bundle, error) {
	b.Refresh = f.rotation(time.Now())
	if f.lease == nil {
		return b, nil
	}
	id, err := f.lease.id()
	if err != nil {
		return nil, err
	}
	b.Lease = provider.Lease{ID: id, Expires: f.lease.end()}
	if len(f.lease.Terms) == len(f.reads) {
		b.Refresh = b.Lease.Expires
	}
	return b, nil
}

// soon is how near the rotation of a password must be for the driver to be
// told; any other it finds out at its own pace.
const soon = time.Minute

// rotation returns when the server will have rotated the first password that
// it says it rotates soon; zero if there is none.
func (f *fetch) rotation(now time.Time) (first time.Time) {
	for _, a := range f.answers {
		var body struct {
			Data struct {
				Rotated string `json:"last_vault_rotation"`
				Left    int64  `json:"ttl"`
			} `json:"data"`
		}
		if a.version != "" || a.response == nil || a.response.decode(&body) != nil || body.Data.Rotated == "" {
			continue
		}
		next := now.Add(seconds(body.Data.Left) + time.Second)
		if next.Sub(now) <= soon && (first.IsZero() || next.Before(first)) {
			first = next
		}
	}
	return first
}
