package rotate

import (
	"context"
	"slices"
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
		r.queue.put(rec, rec.Due)
	case rec.Due.After(time.Now()) && (!it.hastened || rec.Due.Before(it.due)):
		it.failures = 0
		r.queue.put(rec, rec.Due)
	default: // its turn is set
		r.queue.put(rec, it.due)
	}
	r.mu.Unlock()
	r.signal()
	if published {
		logTurn(wasStale, rec)
	}
}

// DueNow makes the volumes whose record matches due at once: their class
// changed, or their backend said so. One that is being refreshed is refreshed
// again after that. However often it is called, there is one refresh of a
// volume in a second: the first call's at once, and one that serves all the
// others a second later.
func (r *Rotator) DueNow(match func(volume.Record) bool) {
	now := time.Now()
	for _, rec := range r.matching(match) {
		r.hasten(rec, now)
	}
	r.signal()
}

// DueFrom makes the volumes whose record matches due one after another from
// start on, spread like those that are overdue when Run starts. Those that
// are due earlier stay so.
func (r *Rotator) DueFrom(start time.Time, match func(volume.Record) bool) {
	records := r.matching(match)
	sortByDue(records)
	gap := r.opts.gap(len(records))
	for i, rec := range records {
		r.hasten(rec, start.Add(time.Duration(i)*gap))
	}
	r.signal()
}

// matching returns the records that match.
func (r *Rotator) matching(match func(volume.Record) bool) []volume.Record {
	return slices.DeleteFunc(r.store.List(), func(rec volume.Record) bool { return !match(rec) })
}

// hasten makes one volume due at a time, unless it is due earlier.
func (r *Rotator) hasten(rec volume.Record, due time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	it, queued := r.queue.items[rec.ID]
	switch {
	case !queued:
		it = r.queue.put(rec, due)
	case !it.taken():
		if due = it.soonest(due); due.Before(it.due) {
			r.queue.put(rec, due)
		}
	}
	it.hastened = true
}

// soonest returns the earliest time from due on at which the volume may be
// made due.
func (it *item) soonest(due time.Time) time.Time {
	if allowed := it.began.Add(minGap); allowed.After(due) {
		return allowed
	}
	return due
}
