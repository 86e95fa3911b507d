package rotate

import (
	"context"
	"time"

	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// Observe returns a Publisher that passes each call to next, and lets the
// queue follow what the call did to the volume's record. Kubelet's calls go
// through it.
func (r *Rotator) Observe(next publish.Publisher) publish.Publisher {
	return &observer{next: next, rotator: r}
}

// An observer is a decorator of Publisher. Whatever a call returned, the
// store knows best: calls may overtake each other on their way back.
type observer struct {
	next    publish.Publisher
	rotator *Rotator
}

// Publish implements publish.Publisher.
func (o *observer) Publish(ctx context.Context, v volume.Volume) (publish.Result, error) {
	defer o.rotator.follow(v.ID)
	return o.next.Publish(ctx, v)
}

// Refresh implements publish.Publisher.
func (o *observer) Refresh(ctx context.Context, id volume.ID) (publish.Result, error) {
	defer o.rotator.follow(id)
	return o.next.Refresh(ctx, id)
}

// Unpublish implements publish.Publisher.
func (o *observer) Unpublish(ctx context.Context, id volume.ID, target string) error {
	defer o.rotator.follow(id)
	return o.next.Unpublish(ctx, id, target)
}

// follow brings the queue in step with the record of that ID.
func (r *Rotator) follow(id volume.ID) {
	r.mu.Lock()
	rec, published := r.store.Get(id)
	it, queued := r.queue.items[id]
	wasStale := queued && it.stale
	switch {
	case queued && it.taken():
		it.observed = true // finish does the rest
		published = false
	case !published || rec.Due.IsZero():
		if queued {
			r.queue.forget(it)
		}
	case !queued:
		r.add(rec, rec.Due)
	default:
		it.stale = !rec.Stale.IsZero()
		if !it.hastened && rec.Due.After(time.Now()) { // if it is overdue, its turn is set
			it.failures = 0
			r.queue.put(it, rec.Due)
		}
	}
	r.mu.Unlock()
	r.signal()
	if published {
		logTurn(wasStale, rec)
	}
}

// DueNow makes the volumes whose record matches due at once: their class
// changed, or their backend said so. One that is being refreshed is refreshed
// again right after.
func (r *Rotator) DueNow(match func(volume.Record) bool) {
	now := time.Now()
	for _, rec := range r.store.List() {
		if match(rec) {
			r.hasten(rec, now)
		}
	}
	r.signal()
}

// hasten makes one volume due at once.
func (r *Rotator) hasten(rec volume.Record, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	it, queued := r.queue.items[rec.ID]
	switch {
	case !queued:
		r.add(rec, now)
	case !it.taken():
		r.queue.put(it, now)
	}
	r.queue.items[rec.ID].hastened = true
}
