package audit

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// What goes along in the context of a call: whose volume it is for, and whether
// the provider was asked for it.
type (
	volumeKey struct{}
	askedKey  struct{}
)

// Middleware returns the decorator that writes down each fetch, before its
// caller has the bundle. It is meant to be the outermost one.
func (l *Log) Middleware() provider.Middleware {
	return func(name string, next provider.Provider) provider.Provider {
		fetcher := &fetcher{l, name, next}
		if inner, ok := provider.As[provider.Releaser](next); ok {
			return &releaser{fetcher, inner}
		}
		return fetcher
	}
}

// Asked is a decorator that is meant to be below those which share fetches: it
// notes which call of them reaches the provider.
func Asked(_ string, next provider.Provider) provider.Provider { return &asked{next} }

type asked struct{ provider.Provider }

// Fetch implements provider.Provider.
func (a *asked) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	if note, ok := ctx.Value(askedKey{}).(*atomic.Bool); ok {
		note.Store(true)
	}
	return a.Provider.Fetch(ctx, req)
}

// Unwrap returns the provider that is asked.
func (a *asked) Unwrap() provider.Provider { return a.Provider }

type fetcher struct {
	log  *Log
	name string
	next provider.Provider
}

// Fetch implements provider.Provider. Where the log is required, a bundle that
// cannot be written down is an error, and its lease is given back as that of
// any bundle that does not reach its volume.
func (f *fetcher) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	began, note := time.Now(), new(atomic.Bool)
	bundle, err := f.next.Fetch(context.WithValue(ctx, askedKey{}, note), req)
	pod := req.Pod
	e := &Event{Event: Fetch, Pod: &pod, Class: req.Class, Provider: f.name, Source: Shared}
	e.Volume, _ = ctx.Value(volumeKey{}).(string)
	if note.Load() {
		e.Source = Store
	}
	if err == nil && bundle != nil {
		e.bundle(bundle, f.log.opts.Key)
	}
	e.ended(began, err)
	if unwritten := f.log.gate(ctx, e); unwritten != nil && err == nil {
		return f.withhold(ctx, bundle, req.Held.Lease, unwritten)
	}
	return bundle, err
}

// withhold returns the error, and gives back the lease of the bundle that
// nobody gets, unless the volume has it already.
func (f *fetcher) withhold(ctx context.Context, bundle *provider.Bundle, held provider.Lease, err error) (*provider.Bundle, error) {
	if bundle == nil || bundle.Lease.ID == "" || bundle.Lease.ID == held.ID {
		return nil, err
	}
	inner, ok := provider.As[provider.Releaser](f.next)
	if !ok {
		return nil, err
	}
	return nil, errors.Join(err, inner.Release(context.WithoutCancel(ctx), bundle.Lease))
}

// Unwrap returns the provider whose fetches are written down.
func (f *fetcher) Unwrap() provider.Provider { return f.next }

type releaser struct {
	*fetcher
	inner provider.Releaser
}

// Release implements provider.Releaser.
func (r *releaser) Release(ctx context.Context, lease provider.Lease) error {
	began := time.Now()
	err := r.inner.Release(ctx, lease)
	e := &Event{Event: Release, Provider: r.name, Lease: leaseOf(lease, r.log.opts.Key)}
	e.ended(began, err)
	r.log.note(ctx, e)
	return err
}

// Observe returns a publisher whose calls are written down once they have
// ended, but for those that found nothing due and those that changed nothing.
func (l *Log) Observe(next publish.Publisher, volumes volume.Store) publish.Publisher {
	return &publisher{l, next, volumes}
}

type publisher struct {
	log     *Log
	next    publish.Publisher
	volumes volume.Store
}

// Publish implements publish.Publisher.
func (p *publisher) Publish(ctx context.Context, v volume.Volume) (publish.Result, error) {
	began := time.Now()
	res, err := p.next.Publish(context.WithValue(ctx, volumeKey{}, string(v.ID)), v)
	rec := res.Record
	rec.ID, rec.Class, rec.Pod = v.ID, v.Class, v.Pod
	p.ended(ctx, Publish, rec, res.Outcome, began, err)
	return res, err
}

// Refresh implements publish.Publisher.
func (p *publisher) Refresh(ctx context.Context, id volume.ID) (publish.Result, error) {
	began := time.Now()
	res, err := p.next.Refresh(context.WithValue(ctx, volumeKey{}, string(id)), id)
	if !errors.Is(err, volume.ErrNotFound) {
		rec := res.Record
		rec.ID = id
		p.ended(ctx, Refresh, rec, res.Outcome, began, err)
	}
	return res, err
}

// Unpublish implements publish.Publisher.
func (p *publisher) Unpublish(ctx context.Context, id volume.ID, target string) error {
	began := time.Now()
	rec, known := p.volumes.Get(id)
	rec.ID = id
	err := p.next.Unpublish(ctx, id, target)
	if known || err != nil {
		p.note(ctx, Unpublish, rec, began, err)
	}
	return err
}

// ended writes down what a publish or a refresh came to.
func (p *publisher) ended(ctx context.Context, kind Kind, rec volume.Record, outcome publish.Outcome, began time.Time, err error) {
	stale := (*publish.StaleError)(nil)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, publish.ErrUnpublished): // nobody wants it any more
		return
	case errors.As(err, &stale):
		kind = Refresh
	case err != nil:
	case outcome == publish.Rotated:
		kind = Rotate
	case outcome != publish.Created:
		return
	}
	p.note(ctx, kind, rec, began, err)
}

func (p *publisher) note(ctx context.Context, kind Kind, rec volume.Record, began time.Time, err error) {
	e := &Event{Event: kind, Volume: string(rec.ID), Revision: rec.Revision, Provider: rec.Provider}
	if rec.Pod != (provider.Pod{}) {
		e.Pod, e.Class = &rec.Pod, rec.Class.String()
	}
	e.Lease = leaseOf(rec.Held.Lease, p.log.opts.Key)
	e.ended(began, err)
	p.log.note(ctx, e)
}
