// Package atomicdir replaces all files of a directory at once.
//
// The layout is the one that kubelet gives to the volumes it fills itself:
//
//	dir/
//	  ..2026_01_02_15_04_05.1234/   a generation: the files
//	  ..data -> ..2026_01_02_15_04_05.1234
//	  user -> ..data/user           one link per top-level entry
//	  tls -> ..data/tls
//
// A Write fills a new generation, then swaps it in by one rename. A reader
// that resolves "..data" once therefore sees one whole generation, and so
// does everyone after the writer was killed between any two system calls; the
// next Write removes what a killed one left.
//
// The package does not log and does not sync: it is meant for memory.
package atomicdir

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"math"
	"os"
	"runtime"
	"slices"

	"golang.org/x/sys/unix"
)

// A File is one file of the directory.
type File struct {
	Path string      // relative and slash-separated, see ValidPath
	Mode fs.FileMode // permission bits; the file gets exactly these
	Data []byte
}

// Options change how files are written.
type Options struct {
	// Group owns every file and directory that is written. Nil stands for the
	// group that the system gives to new files.
	Group *int64
	// Removed is given each file that was removed, open for writing, and closes
	// it: so that it can be overwritten, once nobody can be about to open it.
	// See Overwrite. Nil: the kernel frees it as it is.
	Removed func(*os.File)
}

// group returns the group to set; ok is false if none is.
func (o *Options) group() (gid int, ok bool, err error) {
	switch {
	case o == nil || o.Group == nil:
		return 0, false, nil
	case *o.Group < 0 || *o.Group >= math.MaxUint32: // the last one means "no change" to chown
		return 0, false, fmt.Errorf("group %d: %w", *o.Group, fs.ErrInvalid)
	default:
		return int(*o.Group), true, nil
	}
}

// Write makes dir hold exactly files; no files at all empties it. It compares
// names, bytes, modes and groups, and touches nothing if all are equal already.
// Whatever else is in dir is removed, once the new content is in place; what a
// killed Write left is removed first.
//
// There are two kinds of error. If changed is false, then the old content is
// intact and nothing of the new one is left. If changed is true, then the new
// content is in place behind "..data", and something old or foreign could not
// be removed; the next Write tries again.
//
// A symbolic link in dir leads no write out of it. dir must exist and must not
// be a symbolic link itself. Calls for one directory must take turns.
func Write(dir string, files []File, opts *Options) (changed bool, err error) {
	return write(calls{}, dir, files, opts)
}

// WriteIn is Write for a directory that is open for reading. It writes into
// that directory, whatever is mounted on its path meanwhile or put there. dir
// stays open; its offset changes.
func WriteIn(dir *os.File, files []File, opts *Options) (changed bool, err error) {
	defer runtime.KeepAlive(dir)
	return writeIn(calls{}, int(dir.Fd()), dir.Name(), files, opts)
}

// Repair removes what a killed Write left in the directory, and touches
// nothing else. The next Write does so too; Repair is for when none may come
// for long. Like WriteIn it works on an open directory.
func Repair(dir *os.File) error {
	defer runtime.KeepAlive(dir)
	w, err := newWriter(calls{}, int(dir.Fd()), nil)
	if err == nil {
		_, err = w.repair()
	}
	if err != nil {
		return fmt.Errorf("repair %q: %w", dir.Name(), err)
	}
	return nil
}

func write(sys calls, dir string, files []File, opts *Options) (changed bool, err error) {
	fd, err := sys.opendir(unix.AT_FDCWD, dir)
	if err != nil {
		return false, fmt.Errorf("write into %q: %w", dir, err)
	}
	defer sys.close(fd)
	return writeIn(sys, fd, dir, files, opts)
}

// writeIn calls the open directory dir by name in its errors.
func writeIn(sys calls, dir int, name string, files []File, opts *Options) (changed bool, err error) {
	if err := Validate(modes(files)); err != nil {
		return false, err
	}
	w, err := newWriter(sys, dir, opts)
	if err == nil {
		changed, err = w.replace(grow(sorted(files), 0))
	}
	if err != nil {
		return changed, fmt.Errorf("write into %q: %w", name, err)
	}
	return changed, nil
}

func modes(files []File) iter.Seq2[string, fs.FileMode] {
	return func(yield func(string, fs.FileMode) bool) {
		for _, f := range files {
			if !yield(f.Path, f.Mode) {
				return
			}
		}
	}
}

func sorted(files []File) []File {
	return slices.SortedFunc(slices.Values(files), func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
}

// replace brings the directory from whatever it holds to want.
func (w *writer) replace(want []entry) (changed bool, err error) {
	had, err := w.repair()
	if err != nil {
		return false, err
	}
	if had.shows(want) && w.holds(had.generation, want) {
		return false, nil
	}
	if err := w.publish(want, had); err != nil {
		return false, err
	}
	return true, w.tidy(want, had)
}

// repair removes what a killed Write left, and returns what is there besides.
func (w *writer) repair() (*survey, error) {
	had, err := w.survey()
	if err != nil {
		return nil, err
	}
	for _, name := range had.leftovers {
		if err := w.remove(w.dir, name); err != nil {
			return nil, err
		}
	}
	return had, nil
}

// publish makes want visible, or leaves everything as it was.
func (w *writer) publish(want []entry, had *survey) (err error) {
	generation, err := w.mkgen()
	if err != nil {
		return err
	}
	undo := []string{generation}
	defer func() {
		unseen := *w
		unseen.removed = overwriteNow
		for _, name := range undo {
			err = errors.Join(err, unseen.remove(w.dir, name))
		}
	}()
	if err := w.fill(w.dir, generation, want); err != nil {
		return err
	}
	// Links first: once the swap is done, nothing is missing. Until then a new
	// name leads to nothing.
	for _, e := range want {
		if had.has(e.name) {
			continue
		}
		if err := w.symlinkat(link(e.name), w.dir, e.name); err != nil {
			return err
		}
		undo = append(undo, e.name)
	}
	if err := w.place(generation, dataName); err != nil {
		return err
	}
	undo = nil
	return nil
}

// tidy removes what does not belong to want, after want is in place. It
// removes as much as it can.
func (w *writer) tidy(want []entry, had *survey) error {
	var errs []error
	for _, name := range had.foreign {
		switch {
		case name == dataName:
			errs = append(errs, w.remove(w.dir, tempName))
		case wanted(want, name):
			errs = append(errs, w.place(link(name), name), w.remove(w.dir, tempName))
		default:
			errs = append(errs, w.remove(w.dir, name))
		}
	}
	for _, name := range had.links {
		if !wanted(want, name) {
			errs = append(errs, w.remove(w.dir, name))
		}
	}
	if had.generation != "" {
		errs = append(errs, w.remove(w.dir, had.generation))
	}
	return errors.Join(errs...)
}
