package registration

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/fsnotify/fsnotify"

	"github.com/keymount/keymount/pkg/serve"
)

// A socket is a socket file that we listen on, and what the kernel tells of
// its folder.
type socket struct {
	path     string
	listener net.Listener
	made     fs.FileInfo // of the file that is ours

	watcher *fsnotify.Watcher // nil: nothing is told
	events  <-chan fsnotify.Event
	errors  <-chan error
}

// open listens on a new socket file at path.
func open(path string) (*socket, error) {
	listener, err := serve.Listen("unix://"+path, nil) // kubelet is root
	if err != nil {
		return nil, err
	}
	if local, ok := listener.(*net.UnixListener); ok {
		local.SetUnlinkOnClose(false) // by then the file may be another process's
	}
	s := &socket{path: path, listener: listener}
	s.watch() // first, so that nothing happens between the two unseen
	if s.made, err = os.Lstat(path); err != nil {
		s.close()
		return nil, fmt.Errorf("look at the new registration socket: %w", errors.Join(err, listener.Close()))
	}
	return s, nil
}

// watch lets the kernel tell of changes in the folder, where it can.
func (s *socket) watch() {
	watcher, err := fsnotify.NewWatcher()
	if err != nil { // the node has no inotify instance left
		return
	}
	if err := watcher.Add(filepath.Dir(s.path)); err != nil {
		_ = watcher.Close()
		return
	}
	s.watcher, s.events, s.errors = watcher, watcher.Events, watcher.Errors
}

// there reports whether our file is at the path still.
func (s *socket) there() bool {
	found, err := os.Lstat(s.path)
	return err == nil && os.SameFile(s.made, found)
}

// close removes the file, if it is ours, and ends the watch. Whoever serves
// closes the listener.
func (s *socket) close() {
	if s.there() {
		_ = os.Remove(s.path) // one that stays is replaced by the next
	}
	if s.watcher != nil {
		_ = s.watcher.Close()
	}
}
