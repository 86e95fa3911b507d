package tmpfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"

	"github.com/keymount/keymount/pkg/atomicdir"
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
// mounted there; zero if nothing is, or if there is no target. No other mount
// of this boot has the same identity from Linux 6.8 on. Before, the number
// can come again after the mount is gone; before Linux 5.8, it is the number
// of the device, and a bind mount of the file system around it is not seen.
func (m *Mounter) Mounted(target string) (uint64, error) {
	if err := checkTarget(target); err != nil {
		return 0, err
	}
	return mountedAt(target)
}

// Mount makes sure that target is exactly one memory file system with the
// options, and returns its identity. It creates the directory. A memory file
// system that is already there is kept with its files and brought to the
// options; a bind mount of one that is mounted elsewhere is no such thing.
// Every other mount is removed. On error neither a new mount nor a new
// directory is left, and no symbolic link at target is ever followed.
func (m *Mounter) Mount(target string, o Options) (uint64, error) {
	if err := errors.Join(checkTarget(target), o.validate()); err != nil {
		return 0, err
	}
	id, err := m.mount(target, o)
	if err != nil {
		return 0, fmt.Errorf("mount tmpfs at %q: %w", target, err)
	}
	return id, nil
}

func (m *Mounter) mount(target string, o Options) (id uint64, err error) {
	kept, err := peel(target)
	if err != nil {
		return 0, err
	}
	if kept != nil {
		return m.adopt(target, *kept, o)
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
	dir, err := openTarget(target)
	if err != nil {
		return 0, err
	}
	defer closeFD(dir)
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

// Unmount removes every mount at target, lazily as the last resort, and the
// directory with what is in it. It neither follows symbolic links nor removes
// anything of a file system that is mounted below. Gone is success. A
// directory that is not empty and on which nothing was mounted is not a
// volume: it is left alone, with an error.
func (m *Mounter) Unmount(target string) error {
	if err := checkTarget(target); err != nil {
		return err
	}
	for layers := range maxLayers {
		removed, err := removeLayer(target)
		switch {
		case err != nil:
			return err
		case removed:
		case layers > 0:
			return atomicdir.Remove(target)
		default:
			return removeEmpty(target)
		}
	}
	return fmt.Errorf("unmount %q: more than %d mounts on top of each other", target, maxLayers)
}

func removeEmpty(target string) error {
	err := os.Remove(target)
	switch {
	case errors.Is(err, unix.ENOTEMPTY):
		return fmt.Errorf("remove %q: nothing is mounted there and it is not empty: look at what is in it, and remove it by hand", target)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	default:
		return err
	}
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
