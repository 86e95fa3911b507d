package tmpfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// Plain stands in for a Mounter where nothing can be mounted: its memory file
// systems are ordinary directories, which limit nothing and may be on a disk.
// It knows the directories that it has made itself, for as long as it lives.
// The zero Plain is ready to use, and safe for concurrent use.
type Plain struct {
	mu   sync.Mutex
	dirs map[string]plainDir // by target
}

type plainDir struct {
	info fs.FileInfo // tells the directory from another one at the same path
	id   uint64
}

// Mounted returns the identity of the directory at target, zero if p has not
// made it.
func (p *Plain) Mounted(target string) (uint64, error) {
	if err := checkTarget(target); err != nil {
		return 0, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mounted(target)
}

func (p *Plain) mounted(target string) (uint64, error) {
	known, ok := p.dirs[target]
	if !ok {
		return 0, nil
	}
	info, err := os.Lstat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return 0, nil
	case err != nil:
		return 0, err
	case !os.SameFile(info, known.info):
		return 0, nil
	default:
		return known.id, nil
	}
}

// Mount makes the directory target, keeps it if p has made it, and returns
// its identity. An empty directory is taken over; anything else that p has not
// made is an error. Only the group of the options is used.
func (p *Plain) Mount(target string, o Options) (id uint64, kept bool, err error) {
	if err := errors.Join(checkTarget(target), o.validate()); err != nil {
		return 0, false, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	id, err = p.mounted(target)
	kept = id != 0
	switch {
	case err != nil:
	case kept:
		err = own(target, o)
	default:
		id, err = p.create(target, o)
	}
	if err != nil {
		return 0, kept, fmt.Errorf("make plain directory %q: %w", target, err)
	}
	return id, kept, nil
}

// Open opens the directory at target, if it is the one with the identity id.
// The caller closes it.
func (p *Plain) Open(target string, id uint64) (*os.File, error) {
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	dir, err := os.OpenFile(target, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open plain directory %q: %w", target, errNotMounted)
	case err != nil:
		return nil, err
	}
	if err := p.same(target, dir, id); err != nil {
		return nil, errors.Join(fmt.Errorf("open plain directory %q: %w", target, err), dir.Close())
	}
	return dir, nil
}

func (p *Plain) same(target string, dir *os.File, id uint64) error {
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	p.mu.Lock()
	known, ok := p.dirs[target]
	p.mu.Unlock()
	switch {
	case !ok:
		return errNotMounted
	case known.id != id, !os.SameFile(info, known.info):
		return errOtherMount
	default:
		return nil
	}
}

func (p *Plain) create(target string, o Options) (id uint64, err error) {
	// What cannot be removed here is a file, a link, or somebody's content.
	if err := unix.Rmdir(target); err != nil && err != unix.ENOENT {
		return 0, err
	}
	made, err := makeDir(target)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, made.undo())
		}
	}()
	if err := own(target, o); err != nil {
		return 0, err
	}
	info, err := os.Lstat(target)
	if err != nil {
		return 0, err
	}
	if p.dirs == nil {
		p.dirs = map[string]plainDir{}
	}
	id = rand.Uint64() | 1 // never zero, and never that of an earlier process
	p.dirs[target] = plainDir{info, id}
	return id, nil
}

func own(target string, o Options) error {
	if o.Group != nil {
		if err := os.Lchown(target, -1, o.gid()); err != nil {
			return err
		}
	}
	return os.Chmod(target, 0o755)
}

// Unmount removes the directory with what is in it: that is the volume. A
// directory that p has not made must be empty. Gone is success.
func (p *Plain) Unmount(target string) error {
	if err := checkTarget(target); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	id, err := p.mounted(target)
	switch {
	case err != nil:
	case id == 0:
		err = removeDir(target)
	default:
		err = os.RemoveAll(target)
	}
	if err != nil {
		return fmt.Errorf("plain directory: %w", err)
	}
	delete(p.dirs, target)
	return nil
}
