package atomicdir

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Remove removes path with all that is in it. It follows no symbolic link in
// the last element or below, and stops with an error where another file
// system is mounted, without removing any of that. Gone is success.
func Remove(path string) error {
	if err := remove(calls{}, path); err != nil {
		return fmt.Errorf("remove %q: %w", path, err)
	}
	return nil
}

func remove(sys calls, path string) error {
	path = filepath.Clean(path)
	parent, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil
	case err != nil:
		return err
	}
	defer sys.close(parent)
	return sys.remove(parent, filepath.Base(path))
}

// remove removes a name of an open directory with all that is in it.
func (c calls) remove(dir int, name string) error {
	err := c.unlinkat(dir, name, 0)
	if errors.Is(err, unix.EISDIR) {
		inside := c.empty(dir, name)
		if err = c.unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil {
			err = errors.Join(inside, err)
		}
	}
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// empty removes all that is in a directory, as far as it can.
func (c calls) empty(parent int, name string) error {
	dir, err := c.opendirHere(parent, name)
	if err != nil {
		return err
	}
	defer c.close(dir)
	names, err := c.list(dir, name)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, c.remove(dir, name))
	}
	return errors.Join(errs...)
}
