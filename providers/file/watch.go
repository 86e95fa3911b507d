package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/keymount/keymount/pkg/provider"
)

// burst is how long changes are collected before they are told: a file that
// is replaced, or a volume of kubelet that is swapped, is many events.
const burst = 10 * time.Millisecond

// Changes calls changed when files change, with these object IDs: that of the
// file; when a file comes or goes, those of the folders above it too; and ""
// for what cannot be told exactly, which are the policy, folders that move,
// and everything in a store with symbolic links, where one file has several
// names. It returns when ctx ends, or when the store can no longer be
// watched. The first ID is "", as soon as changes are watched.
func (p *Provider) Changes(ctx context.Context, changed func(objectID string)) error {
	w, err := newWatcher(p.root)
	if err != nil {
		return err
	}
	defer w.close()
	changed("") // from now on nothing is missed
	return w.run(ctx, changed)
}

// A watcher tells the changes below one folder.
type watcher struct {
	root    string
	notify  *fsnotify.Watcher
	folders map[string]bool // watched, by full path
	links   bool            // there are symbolic links
	pending map[string]bool // object IDs
}

// newWatcher returns a watcher that misses nothing from now on.
func newWatcher(root string) (*watcher, error) {
	notify, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("the store %s cannot be watched: %w: %w", root, err, provider.ErrUnavailable)
	}
	w := &watcher{root: root, notify: notify, folders: make(map[string]bool), pending: make(map[string]bool)}
	if err := w.addStore(); err != nil {
		w.close()
		return nil, fmt.Errorf("the store %s cannot be watched: %w: %w", root, err, provider.ErrUnavailable)
	}
	return w, nil
}

func (w *watcher) close() { _ = w.notify.Close() }

// addStore watches the store, and where its root is a symbolic link the
// folder that has the link.
func (w *watcher) addStore() error {
	info, err := os.Lstat(w.root)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if err := w.notify.Add(filepath.Dir(w.root)); err != nil {
			return err
		}
	}
	return w.addTree(w.root+"/", func(string) {})
}

// addTree watches a folder and those below it, and calls found for every
// other file. What vanishes meanwhile is another event.
func (w *watcher) addTree(folder string, found func(file string)) error {
	return filepath.WalkDir(folder, func(name string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil && path.Clean(name) != w.root:
			return nil
		case err != nil:
			return err
		case entry.Type()&fs.ModeSymlink != 0:
			w.links = true
		}
		if !entry.IsDir() {
			found(name)
			return nil
		}
		name = path.Clean(name)
		if path.Dir(name) == w.root && hidden(entry.Name()) {
			return fs.SkipDir
		}
		switch err := w.notify.Add(name); {
		case err == nil:
			w.folders[name] = true
			return nil
		case name != w.root && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission)):
			return nil
		default:
			return err
		}
	})
}

// hidden reports whether a folder in the root can be no namespace, such as
// .git, and is not of the inner workings of kubelet's volumes either.
func hidden(name string) bool {
	return strings.HasPrefix(name, ".") && !strings.HasPrefix(name, "..")
}

// run tells changes until ctx ends.
func (w *watcher) run(ctx context.Context, changed func(objectID string)) error {
	var flush <-chan time.Time
	for {
		var err error
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case event := <-w.notify.Events:
			err = w.note(event)
		case <-w.notify.Errors: // events are lost
			err = w.restart()
		case <-flush:
			flush = nil
			w.tell(changed)
		}
		switch {
		case err != nil:
			return fmt.Errorf("the store %s can no longer be watched: %w: %w", w.root, err, provider.ErrUnavailable)
		case flush == nil && len(w.pending) > 0:
			flush = time.After(burst)
		}
	}
}

// tell calls changed for what is pending: for a file, then for the
// folders above it.
func (w *watcher) tell(changed func(objectID string)) {
	if w.pending[""] {
		clear(w.pending)
		w.pending[""] = true
	}
	// A folder is a prefix of its files, so backwards they come first.
	for _, id := range slices.Backward(slices.Sorted(maps.Keys(w.pending))) {
		changed(id)
	}
	clear(w.pending)
}

// note adds the object IDs of an event to those pending.
func (w *watcher) note(event fsnotify.Event) error {
	name := path.Clean(event.Name)
	gone := event.Has(fsnotify.Remove) || event.Has(fsnotify.Rename)
	relative, inside := strings.CutPrefix(name, w.root+"/")
	switch {
	case name == w.root && !event.Has(fsnotify.Chmod), gone && w.folders[name]:
		return w.restart()
	case !inside:
		return nil
	}
	w.mark(relative, gone || event.Has(fsnotify.Create))
	if !event.Has(fsnotify.Create) {
		return nil
	}
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist): // gone again, which is another event
	case err != nil:
		w.pending[""] = true
	case info.Mode()&fs.ModeSymlink != 0:
		w.links = true
		w.pending[""] = true
	case info.IsDir():
		return w.addTree(name, func(file string) { w.mark(strings.TrimPrefix(file, w.root+"/"), true) })
	}
	return nil
}

// mark adds the IDs for a change of the file of that path in the store, which
// may have come or gone with it.
func (w *watcher) mark(relative string, listed bool) {
	folder := path.Dir(relative)
	if w.links || folder == "." || strings.Contains(relative, "..") {
		w.pending[""] = true
		return
	}
	w.pending[logical(relative)] = true
	for ; listed && folder != "."; folder = path.Dir(folder) {
		w.pending[folder+"/"] = true
	}
}

// restart watches everything anew: watches follow files, not names.
func (w *watcher) restart() error {
	fresh, err := newWatcher(w.root)
	if err != nil {
		return err
	}
	w.close()
	*w = *fresh
	w.pending[""] = true
	return nil
}
