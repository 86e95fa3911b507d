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
	// catchUp is the time between two rounds in which all volumes of a
	// provider are refreshed because its stream of changes was lost.
	catchUp = 5 * time.Minute
	// maxTold is how many changes may wait to be passed on; then the provider
	// has to wait. maxID is the length above which an ID says only that
	// something changed: no volume holds such an object.
	maxTold = 32
	maxID   = 64 << 10
	// minPause is the least time between two looks at all volumes for those
	// that a change concerns, and share the least multiple of what a look takes.
	minPause = 2 * time.Millisecond
	share    = 20
)

// A watcher makes volumes due when their class changes, and when a provider
// that can tell says that an object changed. It runs two goroutines for each
// provider in use.
//
// The rotator refreshes through what observe returns, so rotator is set when
// both exist, before run and before the first call.
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
	f := &feed{
		provider: name,
		rotator:  w.rotator,
		told:     make(chan string, maxTold),
		missed:   time.Now().Add(-overlap), // older volumes have missed nothing
	}
	w.running.Go(func() { w.watch(ctx, f) })
	w.running.Go(func() { f.pass(ctx) })
}

// watch asks one provider to tell of changes, again and again.
func (w *watcher) watch(ctx context.Context, f *feed) {
	for wait := minRewatch; ; wait = min(2*wait, maxRewatch) {
		began := time.Now()
		err := w.changes(ctx, f)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errors.ErrUnsupported):
			wait = unsupportedRewatch
		default:
			f.missed = time.Time{}
			if time.Since(began) > maxRewatch {
				wait = minRewatch
			}
		}
		klog.V(2).InfoS("Provider does not tell of changes; polling goes on", "provider", f.provider, "reason", err, "nextAttempt", wait)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// changes feeds f as one provider tells of changes, until it cannot any more.
// The first that it tells is that watching has begun.
func (w *watcher) changes(ctx context.Context, f *feed) error {
	p, err := w.providers(f.provider)
	if err != nil {
		return err
	}
	notifier, ok := provider.As[provider.Notifier](p)
	if !ok {
		return errors.ErrUnsupported
	}
	tell := f.begin
	return notifier.Changes(ctx, func(objectID string) {
		tell(ctx, objectID)
		tell = f.tell
	})
}

// A feed carries what one provider tells to the rotator.
type feed struct {
	provider string
	rotator  *rotate.Rotator
	told     chan string // object IDs, not yet passed on

	// missed is since when volumes may have missed a change: those that were
	// refreshed before have not. Zero, once a watch failed, means all.
	missed time.Time
	// round is when the latest round of catching up began or will begin.
	round time.Time
}

// begin makes the volumes due that may have missed a change before the stream
// began: at first those that were fetched just before. After a lost stream
// these are all, and a provider that crashes in a loop loses many streams: so
// they are spread, and a round begins at least catchUp after the one before.
// A missed change may take that long.
func (f *feed) begin(context.Context, string) {
	if !f.missed.IsZero() {
		f.rotator.DueNow(func(rec volume.Record) bool { return f.rotated(rec) && rec.Refreshed.After(f.missed) })
		return
	}
	if now := time.Now(); !f.round.After(now) {
		f.round = f.round.Add(catchUp)
		if f.round.Before(now) {
			f.round = now
		}
	}
	f.rotator.DueFrom(f.round, f.rotated)
}

// tell hands a change on. It waits while there are too many.
func (f *feed) tell(ctx context.Context, objectID string) {
	if len(objectID) > maxID {
		objectID = ""
	}
	select {
	case f.told <- objectID:
	case <-ctx.Done():
	}
}

// pass makes volumes due as changes are told, until ctx ends. It looks for
// the volumes concerned once for all changes that wait.
func (f *feed) pass(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case id := <-f.told:
			began := time.Now()
			changed := f.drain(id)
			f.rotator.DueNow(func(rec volume.Record) bool {
				return f.rotated(rec) && (changed[""] || holdsAny(rec, changed))
			})
			select {
			case <-time.After(max(minPause, share*time.Since(began))):
			case <-ctx.Done():
			}
		case <-ctx.Done():
		}
	}
}

// drain returns the first ID and those that wait by now.
func (f *feed) drain(first string) map[string]bool {
	ids := map[string]bool{first: true}
	for range len(f.told) { // nobody else takes from it
		ids[<-f.told] = true
	}
	return ids
}

// rotated reports whether the volume is the provider's and rotated at all: a
// class may want none.
func (f *feed) rotated(rec volume.Record) bool {
	return rec.Provider == f.provider && !rec.Due.IsZero()
}

// holdsAny reports whether the volume holds one of the objects.
func holdsAny(rec volume.Record, ids map[string]bool) bool {
	for id := range rec.Held.Versions {
		if ids[id] {
			return true
		}
	}
	return false
}

// classChanged makes the volumes of a class due, also those of a class that
// wanted no rotation until now.
func (w *watcher) classChanged(name class.Name) {
	w.rotator.DueNow(func(rec volume.Record) bool { return rec.Class == name })
}

// observe returns next with the providers watched that its volumes have, or
// get when their class changes.
func (w *watcher) observe(next publish.Publisher) publish.Publisher {
	return watched{next, w}
}

type watched struct {
	publish.Publisher
	watcher *watcher
}

// Publish implements publish.Publisher.
func (p watched) Publish(ctx context.Context, v volume.Volume) (publish.Result, error) {
	res, err := p.Publisher.Publish(ctx, v)
	if err == nil {
		p.watcher.use(res.Record.Provider)
	}
	return res, err
}

// Refresh implements publish.Publisher.
func (p watched) Refresh(ctx context.Context, id volume.ID) (publish.Result, error) {
	res, err := p.Publisher.Refresh(ctx, id)
	if err == nil {
		p.watcher.use(res.Record.Provider)
	}
	return res, err
}
