package tmpfs

import (
	"errors"
	"fmt"
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
	var st unix.Statx_t
	if err := statx(dir, path, unix.STATX_MNT_ID_UNIQUE, &st); err != nil {
		return 0, err
	}
	if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
			return 0, nil
		}
		return identity(dir, path, &st)
	}
	// Linux has that attribute since 5.8.
	var above unix.Statx_t
	if err := statx(dir, parent, 0, &above); err != nil || device(&above) == device(&st) {
		return 0, err
	}
	return device(&st), nil
}

// identityOf returns the identity of the mount that an open directory is on.
func identityOf(fd int) (uint64, error) {
	var st unix.Statx_t
	if err := statx(fd, "", unix.STATX_MNT_ID_UNIQUE, &st); err != nil {
		return 0, err
	}
	return identity(fd, "", &st)
}

// identity returns the identity of the mount that st was asked of.
func identity(dir int, path string, st *unix.Statx_t) (uint64, error) {
	if st.Mask&unix.STATX_MNT_ID_UNIQUE != 0 {
		return st.Mnt_id, nil
	}
	if err := statx(dir, path, unix.STATX_MNT_ID, st); err != nil {
		return 0, err
	}
	if st.Mask&unix.STATX_MNT_ID != 0 {
		return st.Mnt_id, nil
	}
	return device(st), nil
}

func statx(dir int, path string, mask int, st *unix.Statx_t) error {
	if err := unix.Statx(dir, path, statxFlags|unix.AT_EMPTY_PATH, mask, st); err != nil {
		return fmt.Errorf("statx %q: %w", path, err)
	}
	return nil
}

func device(st *unix.Statx_t) uint64 { return unix.Mkdev(st.Dev_major, st.Dev_minor) }
