package tmpfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"

	"github.com/keymount/keymount/pkg/tmpfs/userns"
)

// maxLayers bounds the mounts on top of each other that are removed from one
// target.
const maxLayers = 64

// A Mounter mounts memory file systems. It is safe for concurrent use on
// different targets.
type Mounter struct {
	classic  bool // only mount(2) is there
	noSwap   bool
	degraded atomic.Int64
}

// New finds out what this system can do. The error wraps fs.ErrPermission if
// the process may not mount.
func New() (*Mounter, error) {
	fsfd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	switch {
	case err == nil:
		defer closeFD(fsfd)
		// Linux before 6.4 does not know it; a user namespace may not have it.
		err := errors.Join(unix.FsconfigSetFlag(fsfd, "noswap"), unix.FsconfigCreate(fsfd))
		return &Mounter{noSwap: err == nil}, nil
	case !userns.MayMount():
		return nil, fmt.Errorf("mount tmpfs: CAP_SYS_ADMIN is missing: %w", fs.ErrPermission)
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM): // Linux before 5.2; a seccomp filter
		return &Mounter{classic: true}, nil
	default:
		return nil, fmt.Errorf("mount tmpfs: %w", err)
	}
}

// NoSwap reports whether the memory of new mounts is never swapped out. It
// takes Linux 6.4 and no user namespace.
func (m *Mounter) NoSwap() bool { return m.noSwap }

// Degraded returns how many mounts were made, or found and kept, whose memory
// may be swapped out.
func (m *Mounter) Degraded() int64 { return m.degraded.Load() }

// Mounted returns the identity of the topmost mount at target, whatever was
// mounted there; zero if nothing is, or if there is no target.
//
// An identity is that of the directory that is mounted, and the same in every
// mount namespace that sees it, so that a driver in a new container knows the
// volumes of the one before. It is made of the number of the device, which no
// two file systems have at the same time, and of the handle of the directory,
// in which memory file systems have a random number, so that a later one has
// another identity. Two mounts of one directory have one identity. A bind mount
// of the file system around target is seen since Linux 5.8.
func (m *Mounter) Mounted(target string) (uint64, error) {
	if err := checkTarget(target); err != nil {
		return 0, err
	}
	return mountedAt(target)
}

// Mount makes sure that target is exactly one memory file system with the
// options, and returns its identity. It creates the directory, and refuses to
// cover one that is not empty.
//
// A memory file system that is already there is kept with its files and
// brought to the options. A bind mount of one that belongs to another
// directory is no such thing. Every other mount is removed, also from on top
// of the one that is kept.
//
// Whoever undoes a Mount must leave a file system alone that was kept: a pod
// may be reading it. On error there is nothing to undo: neither a new mount
// nor a new directory is left, though kept may be true. No symbolic link at
// target is ever followed.
func (m *Mounter) Mount(target string, o Options) (id uint64, kept bool, err error) {
	if err := errors.Join(checkTarget(target), o.validate()); err != nil {
		return 0, false, err
	}
	old, err := peel(target)
	switch {
	case err != nil:
	case old != nil:
		id, err = m.adopt(target, *old, o)
	default:
		id, err = m.create(target, o)
	}
	if err != nil {
		return 0, old != nil, fmt.Errorf("mount tmpfs at %q: %w", target, err)
	}
	return id, old != nil, nil
}

// create mounts where nothing is mounted.
func (m *Mounter) create(target string, o Options) (id uint64, err error) {
	made, err := makeDir(target)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, made.undo())
		}
	}()
	dir, err := openTarget(target)
	if err != nil {
		return 0, err
	}
	defer closeFD(dir)
	if !slices.Contains(made, target) {
		if err := checkEmpty(dir); err != nil {
			return 0, err
		}
	}
	if m.classic {
		id, err = m.mountClassic(target, dir, o)
	} else {
		id, err = m.mountDetached(dir, o)
	}
	if err == nil && !m.noSwap {
		m.degraded.Add(1)
	}
	return id, err
}

// Open opens the root directory of the mount at target for reading, if that
// has the identity id. The error tells whether nothing is mounted there, or
// something else. What is done in the directory stays in that mount, whatever
// becomes of target. The caller closes it.
func (m *Mounter) Open(target string, id uint64) (*os.File, error) {
	if err := checkTarget(target); err != nil {
		return nil, err
	}
	path, err := openTarget(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open the volume at %q: %w", target, errNotMounted)
	case err != nil:
		return nil, err
	}
	defer closeFD(path) // opened without asking a server, which might hang
	if err := sameMount(path, id); err != nil {
		return nil, fmt.Errorf("open the volume at %q: %w", target, err)
	}
	dir, err := unix.Openat(path, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open the volume at %q: %w", target, err)
	}
	return os.NewFile(uintptr(dir), target), nil
}

func sameMount(dir int, want uint64) error {
	id, err := mountOn(dir)
	switch {
	case err != nil:
		return err
	case id == 0:
		return errNotMounted
	case id != want:
		return errOtherMount
	default:
		return nil
	}
}

// Unmount removes every mount at target, lazily as the last resort, and the
// empty directory. Whatever else is at target is no volume, also if a mount
// has covered it: it is left alone, with an error. Gone is success.
func (m *Mounter) Unmount(target string) error {
	if err := checkTarget(target); err != nil {
		return err
	}
	for range maxLayers {
		removed, err := removeLayer(target)
		switch {
		case err != nil:
			return err
		case !removed:
			return removeDir(target)
		}
	}
	return fmt.Errorf("unmount %q: more than %d mounts on top of each other", target, maxLayers)
}

func removeDir(target string) error {
	err := unix.Rmdir(target)
	switch {
	case err == nil, errors.Is(err, unix.ENOENT):
		return nil
	case errors.Is(err, unix.ENOTEMPTY):
		err = errNotEmpty
	}
	return fmt.Errorf("remove %q: %w", target, err)
}

// removeLayer removes the topmost mount at target, if there is one.
func removeLayer(target string) (removed bool, err error) {
	err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) || mount.IsCorruptedMnt(err) {
		err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT): // not a mount point
		return false, nil
	default:
		return false, fmt.Errorf("unmount %q: %w", target, err)
	}
}
