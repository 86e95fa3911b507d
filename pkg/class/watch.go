package class

import (
	"context"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Changes calls changed with the name of each class that is changed, created,
// removed, or becomes valid or invalid, until ctx ends; then it returns nil.
// It sees files edited in place and replaced, the symbolic links that kubelet
// swaps in a ConfigMap volume, and the folder itself replaced or gone for a
// while. Where the kernel cannot tell of changes, it polls.
func (d *Dir) Changes(ctx context.Context, changed func(Name)) error {
	seen := d.current.Load()
	w := d.watch()
	defer w.close()

	pending := true // a look at the folder is near
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-w.events:
			if !pending && d.concerns(event) {
				pending = true
				timer.Reset(d.opts.settle())
			}
		case <-w.errors: // events were lost
			if !pending {
				pending = true
				timer.Reset(d.opts.settle())
			}
		case <-timer.C:
			w.attach() // first, so that nothing happens between the two unseen
			next, _ := d.refresh()
			for name := range differences(seen, next) {
				changed(name)
			}
			seen, pending = next, false
			timer.Reset(d.opts.poll())
		}
	}
}

// concerns reports whether the event is about the folder or what is in it.
func (d *Dir) concerns(event fsnotify.Event) bool {
	return event.Name == d.path || filepath.Dir(event.Name) == d.path
}

// differences returns the names that do not mean the same in a and b.
func differences(a, b *snapshot) map[Name]struct{} {
	names := make(map[Name]struct{})
	for name, was := range a.entries {
		if is, ok := b.entries[name]; !ok || !equal(was, is) {
			names[name] = struct{}{}
		}
	}
	for name := range b.entries {
		if _, ok := a.entries[name]; !ok {
			names[name] = struct{}{}
		}
	}
	return names
}

// equal reports whether a and b give the same answer.
func equal(a, b entry) bool {
	if a.err != nil && b.err != nil {
		return a.err.Error() == b.err.Error()
	}
	return a.class != nil && b.class != nil && a.class.Revision == b.class.Revision
}

// A watch hears of changes in the folder and, for its own coming and going,
// in its parent. One that could not be made hears nothing.
type watch struct {
	dir      *Dir
	watcher  *fsnotify.Watcher // nil: polling
	events   <-chan fsnotify.Event
	errors   <-chan error
	attached bool // counted in dir.watched
}

func (d *Dir) watch() *watch {
	watcher, err := fsnotify.NewWatcher()
	if err != nil { // the node has no inotify instance left
		return &watch{dir: d}
	}
	return &watch{dir: d, watcher: watcher, events: watcher.Events, errors: watcher.Errors}
}

// attach makes the watch hear of the folder that is at the path now, which
// may not be the one it was.
func (w *watch) attach() {
	if w.watcher == nil {
		return
	}
	_ = w.watcher.Add(filepath.Dir(w.dir.path)) // without it, polling sees the folder come back
	_ = w.watcher.Remove(w.dir.path)
	w.count(w.watcher.Add(w.dir.path) == nil)
}

func (w *watch) close() {
	w.count(false)
	if w.watcher != nil {
		_ = w.watcher.Close()
	}
}

// count keeps the watch's part in dir.watched.
func (w *watch) count(attached bool) {
	switch {
	case attached && !w.attached:
		w.dir.watched.Add(1)
	case !attached && w.attached:
		w.dir.watched.Add(-1)
	}
	w.attached = attached
}
