package driver

import (
	"context"
	"errors"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/rotate"
	"github.com/keymount/keymount/pkg/volume"
)

const (
	// minRewatch and maxRewatch bound the wait until a provider that went away
	// is asked again to tell of changes.
	minRewatch = time.Second
	maxRewatch = time.Minute
	// unsupportedRewatch is the same for one that never tells: its next
	// release may.
	unsupportedRewatch = time.Hour
	// overlap is how long before the first watch of a provider a volume may
	// have been fetched and still miss a change. Older ones wait for their
	// interval, so that a restart of the driver is no storm of fetches.
	overlap = 10 * time.Second
)

// A watcher makes volumes due when their class changes, and when a provider
// that can tell says that an object changed. It runs one goroutine for each
// provider in use.
type watcher struct {
	providers provider.Lookup
	rotator   *rotate.Rotator

	mu      sync.Mutex
	ctx     context.Context // of run; nil before and after
	known   map[string]bool // providers in use since the start
	running sync.WaitGroup
}

// run watches the providers of the volumes and of those published later, until
// ctx ends.
func (w *watcher) run(ctx context.Context, published []volume.Record) error {
	w.mu.Lock()
	w.ctx = ctx
	for name := range w.known {
		w.start(name)
	}
	w.mu.Unlock()
	for _, rec := range published {
		w.use(rec.Provider)
	}
	<-ctx.Done()
	w.mu.Lock()
	w.ctx = nil
	w.mu.Unlock()
	w.running.Wait()
	return nil
}

// use starts to watch a provider unless it is watched.
func (w *watcher) use(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known[name] {
		return
	}
	if w.known == nil {
		w.known = make(map[string]bool)
	}
	w.known[name] = true
	if w.ctx != nil {
		w.start(name)
	}
}

// start needs mu and ctx.
func (w *watcher) start(name string) {
	ctx := w.ctx
	w.running.Go(func() { w.watch(ctx, name) })
}

// watch asks one provider to tell of changes, again and again.
func (w *watcher) watch(ctx context.Context, name string) {
	missed := time.Now().Add(-overlap) // older volumes have missed nothing
	for wait := minRewatch; ; wait = min(2*wait, maxRewatch) {
		began := time.Now()
		err := w.changes(ctx, name, missed)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errors.ErrUnsupported):
			wait = unsupportedRewatch
		default:
			missed = time.Time{}
			if time.Since(began) > maxRewatch {
				wait = minRewatch
			}
		}
		klog.V(2).InfoS("Provider does not tell of changes; polling goes on", "provider", name, "reason", err, "nextAttempt", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// changes makes volumes due as one provider tells of changes. The first that
// it tells is that watching has begun: volumes that were refreshed before
// missed have missed no change.
func (w *watcher) changes(ctx context.Context, name string, missed time.Time) error {
	p, err := w.providers(name)
	if err != nil {
		return err
	}
	notifier, ok := provider.As[provider.Notifier](p)
	if !ok {
		return errors.ErrUnsupported
	}
	return notifier.Changes(ctx, func(objectID string) {
		w.rotator.DueNow(func(rec volume.Record) bool {
			_, holds := rec.Held.Versions[objectID]
			switch {
			case rec.Provider != name || rec.Due.IsZero(): // zero: the class wants no rotation
				return false
			case objectID == "":
				return rec.Refreshed.After(missed)
			default:
				return holds
			}
		})
		missed = time.Time{}
	})
}

// classChanged makes the volumes of a class due, also those of a class that
// wanted no rotation until now.
func (w *watcher) classChanged(name class.Name) {
	w.rotator.DueNow(func(rec volume.Record) bool { return rec.Class == name })
}

// observe returns next with the providers of new volumes watched.
func (w *watcher) observe(next publish.Publisher) publish.Publisher {
	return watched{next, w}
}

type watched struct {
	publish.Publisher
	watcher *watcher
}

func (p watched) Publish(ctx context.Context, v volume.Volume) (publish.Result, error) {
	res, err := p.Publisher.Publish(ctx, v)
	if err == nil && res.Outcome == publish.Created {
		p.watcher.use(res.Record.Provider)
	}
	return res, err
}
