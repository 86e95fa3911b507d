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
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, statxFlags, unix.STATX_MNT_ID_UNIQUE, &st)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return 0, nil
	case mount.IsCorruptedMnt(err):
		return 0, fmt.Errorf("%w at %q: %w", ErrCorrupted, path, err)
	case err != nil:
		return 0, fmt.Errorf("statx %q: %w", path, err)
	case st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0:
		return mountedByDevice(path, &st)
	case st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0:
		return 0, nil
	default:
		return identity(unix.AT_FDCWD, path, &st)
	}
}

// identity returns the identity of the mount that st was asked of.
func identity(dir int, path string, st *unix.Statx_t) (uint64, error) {
	if st.Mask&unix.STATX_MNT_ID_UNIQUE != 0 {
		return st.Mnt_id, nil
	}
	err := unix.Statx(dir, path, statxFlags|unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, st)
	switch {
	case err != nil:
		return 0, fmt.Errorf("statx %q: %w", path, err)
	case st.Mask&unix.STATX_MNT_ID != 0:
		return st.Mnt_id, nil
	default:
		return device(st), nil
	}
}

// mountedByDevice does without the attribute that Linux has since 5.8.
func mountedByDevice(path string, st *unix.Statx_t) (uint64, error) {
	var parent unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, filepath.Dir(path), 0, 0, &parent); err != nil {
		return 0, fmt.Errorf("statx %q: %w", filepath.Dir(path), err)
	}
	if device(&parent) == device(st) {
		return 0, nil
	}
	return device(st), nil
}

func device(st *unix.Statx_t) uint64 { return unix.Mkdev(st.Dev_major, st.Dev_minor) }

// identityOf returns the identity of the mount that an open directory is on.
func identityOf(fd int) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(fd, "", statxFlags|unix.AT_EMPTY_PATH, unix.STATX_MNT_ID_UNIQUE, &st); err != nil {
		return 0, fmt.Errorf("statx: %w", err)
	}
	return identity(fd, "", &st)
}
