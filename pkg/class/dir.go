package class

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// maxFile bounds one manifest file, maxFolder all of a folder together,
	// and maxFiles their number.
	maxFile   = 1 << 20
	maxFolder = 64 << 20
	maxFiles  = 10_000

	// settle is the age from which a file's time of modification tells it
	// from a later edit, on file systems that keep whole seconds.
	settle = 2 * time.Second
)

var _ Source = (*Dir)(nil)

// A Dir is a Source that reads manifests from the files *.yaml, *.yml and
// *.json of one folder; it ignores sub-folders and names that begin with a dot.
//
// Classes are answered from memory. While Changes watches the folder, memory
// follows it; a name that memory lacks makes Class look at the folder first.
// While nobody watches, Class looks at the folder each time: it lists it and
// stats the manifests, and reads those only that were touched.
//
// A folder that cannot be read is not an empty one: the classes seen last
// stay, and other names get an error that is not final.
type Dir struct {
	path    string
	opts    *DirOptions
	current atomic.Pointer[snapshot]
	watched atomic.Int32 // calls of Changes that hear of edits

	mu sync.Mutex // taken to replace current
}

// DirOptions adjusts a Dir. The zero value is ready to use.
type DirOptions struct {
	// Settle is how long Changes lets edits gather before it reads them; 50ms
	// if zero.
	Settle time.Duration
	// Poll is how often Changes looks at the folder although it heard nothing,
	// for file systems and nodes that cannot tell; 30s if zero.
	Poll time.Duration
}

func (o *DirOptions) settle() time.Duration {
	if o == nil {
		return 50 * time.Millisecond
	}
	return cmp.Or(o.Settle, 50*time.Millisecond)
}

func (o *DirOptions) poll() time.Duration {
	if o == nil {
		return 30 * time.Second
	}
	return cmp.Or(o.Poll, 30*time.Second)
}

// OpenDir reads the folder dir, which must exist. Manifests that are invalid
// are not an error here, but of their classes.
func OpenDir(dir string, opts *DirOptions) (*Dir, error) {
	path, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open class folder %s: %w", dir, err)
	}
	d := &Dir{path: path, opts: opts}
	d.current.Store(&snapshot{})
	_, err = d.refresh()
	if err != nil {
		return nil, err
	}
	return d, nil
}

// Class returns the class of that name. The error wraps ErrInvalid if its
// manifest is invalid, and also if there is no such class but a manifest so
// broken that it may be the one.
func (d *Dir) Class(_ context.Context, name Name) (*Class, error) {
	var err error
	now := d.current.Load()
	found, ok := now.entries[name]
	if !ok || d.watched.Load() == 0 {
		now, err = d.refresh()
		found, ok = now.entries[name]
	}
	switch {
	case ok:
		return found.class, found.err
	case err != nil:
		return nil, fmt.Errorf("class %s: %w", name, err)
	case len(now.broken) > 0:
		return nil, fmt.Errorf("class %s is not in %s, unless it is in the manifest that cannot be read: %w", name, d.path, now.broken[0])
	default:
		return nil, fmt.Errorf("class %s is not in %s: %w", name, d.path, ErrNotFound)
	}
}

// refresh brings current up to date and returns it. On error it is as it was.
func (d *Dir) refresh() (*snapshot, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	old := d.current.Load()
	next, err := scan(d.path, old)
	if err != nil {
		return old, fmt.Errorf("read class folder %s: %w", d.path, err)
	}
	d.current.Store(next)
	return next, nil
}

// A snapshot is the folder as it was at one time. It is immutable.
type snapshot struct {
	files   map[string]file // by path
	entries map[Name]entry
	broken  []error // of manifests without even a name
}

// A file is one manifest file as it was read.
type file struct {
	info        fs.FileInfo
	settled     bool // an equal info means an equal content
	definitions []definition
}

// scan returns the folder as it is now: old itself if no file was touched.
func scan(dir string, old *snapshot) (*snapshot, error) {
	paths, err := manifests(dir)
	if err != nil {
		return nil, err
	}
	files := make(map[string]file, len(paths))
	touched := false
	var size int64
	for _, path := range paths {
		known := old.files[path]
		now, err := look(path, known)
		if err != nil {
			continue // it has gone, or is a folder
		}
		files[path] = now
		touched = touched || now.info == nil || now.info != known.info
		if now.info != nil {
			size += now.info.Size()
		}
		if size > maxFolder {
			return nil, fmt.Errorf("its manifests have more than %d bytes: move some away", maxFolder)
		}
	}
	if !touched && len(files) == len(old.files) {
		return old, nil
	}
	next := &snapshot{files: files}
	var all []definition
	for _, path := range paths {
		all = append(all, files[path].definitions...)
	}
	next.entries, next.broken = index(all)
	return next, nil
}

// manifests returns the paths of what may be a manifest in dir, in order.
func manifests(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var paths []string
	for _, entry := range entries {
		name := entry.Name()
		if !strings.HasPrefix(name, ".") && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			paths = append(paths, filepath.Join(dir, name))
		}
	}
	if len(paths) > maxFiles {
		return nil, fmt.Errorf("it has more than %d manifests: move some away", maxFiles)
	}
	return paths, nil
}

// same reports whether a and b describe one file that was not touched.
func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// look returns the file at path: known itself if it was not touched. The error
// wraps fs.ErrNotExist if there is no file; one that cannot be read is a
// broken definition.
func look(path string, known file) (file, error) {
	now := time.Now()
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return file{}, fs.ErrNotExist
	case err == nil && known.settled && same(known.info, info):
		return known, nil
	}
	data, info, err := read(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return file{}, err
	case err != nil:
		return file{definitions: []definition{{err: fmt.Errorf("read manifest %s: %w: %w", path, err, ErrInvalid)}}}, nil
	}
	return file{
		info:        info,
		settled:     now.Sub(info.ModTime()).Abs() > settle,
		definitions: parse(path, data),
	}, nil
}

// read returns the content of the regular file at path, and the file's
// info from before it was read.
func read(path string) ([]byte, fs.FileInfo, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe must not stop us
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, errors.New("it is not a regular file")
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, err
	}
	if len(data) > maxFile {
		return nil, nil, fmt.Errorf("it has more than %d bytes: split it", maxFile)
	}
	return data, info, nil
}
