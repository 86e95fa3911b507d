// Package rotate refreshes published volumes when they are due.
//
// When a volume is due is decided elsewhere and stands in its record, so that
// the Rotator and kubelet's own calls share one clock. The Rotator knows
// nothing of providers and classes, and never mounts.
package rotate

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

const (
	// minBackoff and maxBackoff bound the wait after a refresh that did not
	// move the due time of its record.
	minBackoff = time.Second
	maxBackoff = 5 * time.Minute

	// minGap is the time between two refreshes of a volume that is made due
	// again and again.
	minGap = time.Second

	// glance is how often the due times are compared with the wall clock
	// although none is near: the clock may have been set.
	glance = time.Minute

	// spreadPerVolume and maxSpread are the default of Options.Spread.
	spreadPerVolume = 100 * time.Millisecond
	maxSpread       = 30 * time.Second
)

// Options adjusts a Rotator. The zero value is ready to use.
type Options struct {
	// Workers is how many volumes of one provider are refreshed at the same
	// time, and as many more of those that are stale; 4 if zero. Providers do
	// not wait for one another.
	Workers int
	// Spread is the time over which the volumes are refreshed that are overdue
	// when Run starts, or that DueFrom names; if zero, 100ms for each of them,
	// and at most 30s.
	Spread time.Duration
}

func (o *Options) workers() int {
	if o == nil || o.Workers <= 0 {
		return 4
	}
	return o.Workers
}

// gap is the time between two of n volumes that are spread.
func (o *Options) gap(n int) time.Duration {
	switch {
	case n == 0:
		return 0
	case o == nil || o.Spread <= 0:
		return min(spreadPerVolume, maxSpread/time.Duration(n))
	default:
		return o.Spread / time.Duration(n)
	}
}

// A Rotator calls Refresh for each published volume at the due time of its
// record, and never twice at the same time for one volume. It is safe for
// concurrent use.
type Rotator struct {
	pub   publish.Publisher
	store volume.Store
	opts  *Options
	wake  chan struct{} // holds a token when the queue may have a new first item

	mu    sync.Mutex // guards queue and its items
	queue queue
}

// New returns a Rotator that refreshes through pub the volumes that pub keeps
// in store.
func New(pub publish.Publisher, store volume.Store, opts *Options) *Rotator {
	return &Rotator{
		pub:   pub,
		store: store,
		opts:  opts,
		wake:  make(chan struct{}, 1),
		queue: newQueue(opts.workers()),
	}
}

// Run refreshes volumes until ctx ends: those of the store, those that pass
// an observer, and those that are made due. When ctx ends it cancels the
// refreshes in progress, waits for them, and returns nil. It must not be
// called again before it returns.
func (r *Rotator) Run(ctx context.Context) error {
	r.load(time.Now())
	var refreshes sync.WaitGroup
	defer refreshes.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		it, wait := r.take()
		if it != nil {
			refreshes.Go(func() {
				_, err := r.pub.Refresh(ctx, it.id)
				r.finish(it, err)
			})
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-r.wake:
		case <-ctx.Done():
		}
	}
	return nil
}

// load queues the volumes of the store that are not queued yet, with those
// that are overdue spread over a while.
func (r *Rotator) load(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var overdue []volume.Record
	for _, rec := range r.store.List() {
		_, queued := r.queue.items[rec.ID]
		switch {
		case queued || rec.Due.IsZero():
		case rec.Due.After(now):
			r.queue.put(rec, rec.Due)
		default:
			overdue = append(overdue, rec)
		}
	}
	sortByDue(overdue)
	gap := r.opts.gap(len(overdue))
	for i, rec := range overdue {
		r.queue.put(rec, now.Add(time.Duration(i)*gap))
	}
}

// sortByDue keeps those together that are due together: they share a fetch.
func sortByDue(records []volume.Record) {
	slices.SortStableFunc(records, func(a, b volume.Record) int { return a.Due.Compare(b.Due) })
}

// take returns the item to refresh next, or nil and how long to wait.
func (r *Rotator) take() (*item, time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.queue.take(time.Now(), glance)
}

// finish puts an item back in line, at the due time that its record has after
// the refresh.
func (r *Rotator) finish(it *item, err error) {
	r.mu.Lock()
	rec, published := r.store.Get(it.id)
	gone := errors.Is(err, volume.ErrNotFound) && !it.observed
	it.observed = false
	wasStale := it.stale
	now := time.Now()
	switch {
	case !published || gone || rec.Due.IsZero():
		r.queue.forget(it)
	case it.hastened:
		r.queue.put(rec, it.soonest(now))
	case scheduled(err) && rec.Due.After(now):
		it.failures = 0
		r.queue.put(rec, rec.Due)
	default:
		it.failures++
		r.queue.put(rec, now.Add(backoff(it.failures)))
	}
	r.mu.Unlock()
	r.signal()
	if err != nil {
		klog.V(2).InfoS("Refresh failed", "volume", it.id, "reason", err)
	}
	if published {
		logTurn(wasStale, rec)
	}
}

// scheduled reports whether the record's due time takes account of a refresh
// that ended with err.
func scheduled(err error) bool {
	var stale *publish.StaleError
	return err == nil || errors.As(err, &stale) || errors.Is(err, volume.ErrNotFound)
}

// backoff returns the wait after so many failures in a row.
func backoff(failures int) time.Duration {
	return min(minBackoff<<min(failures-1, 16), maxBackoff)
}

// signal makes Run look at the queue again.
func (r *Rotator) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// logTurn logs that a volume became stale or recovered.
func logTurn(wasStale bool, rec volume.Record) {
	stale := !rec.Stale.IsZero()
	if stale == wasStale {
		return
	}
	about := []any{"volume", rec.ID, "pod", klog.KRef(rec.Pod.Namespace, rec.Pod.Name), "class", rec.Class}
	if stale {
		klog.InfoS("Volume is stale: it keeps what it holds", append(about,
			"since", rec.Stale.Since.UTC().Format(time.RFC3339), "reason", rec.Stale.Reason, "message", rec.Stale.Message)...)
		return
	}
	klog.InfoS("Volume is up to date again", about...)
}
