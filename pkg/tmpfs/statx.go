package tmpfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"path/filepath"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

// Never ask a server: one that hangs would hang the caller.
const statxFlags = unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT | unix.AT_STATX_DONT_SYNC

// mountedAt returns the identity of the mount at path, zero if there is none.
func mountedAt(path string) (uint64, error) {
	id, err := mountRoot(unix.AT_FDCWD, path, filepath.Dir(path)+"/.")
	var errno unix.Errno
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return 0, nil
	case errors.As(err, &errno) && mount.IsCorruptedMnt(errno):
		return 0, fmt.Errorf("%w at %q: %w", ErrCorrupted, path, err)
	default:
		return id, err
	}
}

// mountOn returns the identity of the mount whose root an open directory is,
// zero if it is the root of none.
func mountOn(dir int) (uint64, error) { return mountRoot(dir, "", "..") }

// mountRoot does the work of both; parent leads to the directory above.
func mountRoot(dir int, path, parent string) (uint64, error) {
	st, err := statx(dir, path)
	if err != nil {
		return 0, err
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
			return 0, nil
		}
		return identity(dir, path, st), nil
	}
	// Linux has that attribute since 5.8.
	above, err := statx(dir, parent)
	if err != nil || device(above) == device(st) {
		return 0, err
	}
	return identity(dir, path, st), nil
}

// identityOf returns the identity of the mount whose root an open directory is.
func identityOf(fd int) (uint64, error) {
	st, err := statx(fd, "")
	if err != nil {
		return 0, err
	}
	return identity(fd, "", st), nil
}

// identity names the directory that is the root of a mount, by what every
// mount namespace sees of it: the number that the kernel gives to a mount is
// another one in each container, and so in each life of a driver. A directory
// of a memory file system has a handle with a random part.
func identity(dir int, path string, st *unix.Statx_t) uint64 {
	known := binary.LittleEndian.AppendUint64(make([]byte, 0, 64), device(st))
	known = binary.LittleEndian.AppendUint64(known, st.Ino)
	if handle, _, err := unix.NameToHandleAt(dir, path, unix.AT_EMPTY_PATH); err == nil {
		known = append(known, handle.Bytes()...)
	}
	h := fnv.New64a()
	_, _ = h.Write(known)
	return max(1, h.Sum64())
}

func statx(dir int, path string) (*unix.Statx_t, error) {
	var st unix.Statx_t
	if err := unix.Statx(dir, path, statxFlags|unix.AT_EMPTY_PATH, unix.STATX_INO, &st); err != nil {
		return nil, fmt.Errorf("statx %q: %w", path, err)
	}
	return &st, nil
}

func device(st *unix.Statx_t) uint64 { return unix.Mkdev(st.Dev_major, st.Dev_minor) }
