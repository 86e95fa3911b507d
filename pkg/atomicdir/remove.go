package atomicdir

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"golang.org/x/sys/unix"
)

// remove removes a name of an open directory with all that is in it. It follows
// no symbolic link, and stops with an error where another file system is
// mounted, without removing any of that. Gone is success.
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

// empty removes all that is in a directory, as far as it can. Somebody else
// may have made it deeper than any of ours: rather than to hold a descriptor
// for each level, it moves what is deep up into the directory.
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
	for len(names) > 0 {
		name, names = names[0], names[1:]
		err := c.unlinkat(dir, name, 0)
		if errors.Is(err, unix.EISDIR) {
			raised, inside := c.raise(dir, name)
			names = append(names, raised...)
			if err = c.unlinkat(dir, name, unix.AT_REMOVEDIR); err != nil {
				err = errors.Join(inside, err)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// raise empties a directory by removing its files and moving its directories
// to parent, where they have the new names that it returns.
func (c calls) raise(parent int, name string) (raised []string, err error) {
	dir, err := c.opendirHere(parent, name)
	if err != nil {
		return nil, err
	}
	defer c.close(dir)
	names, err := c.list(dir, name)
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, name := range names {
		err := c.unlinkat(dir, name, 0)
		if errors.Is(err, unix.EISDIR) {
			free := fmt.Sprintf("%s%d", tempName, rand.Uint64())
			if err = c.renameat(dir, name, parent, free, 0); err == nil {
				raised = append(raised, free)
			}
		}
		errs = append(errs, err)
	}
	return raised, errors.Join(errs...)
}
