package tmpfs

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

// peel removes mounts from target until none is left, or one memory file
// system that can be kept.
func peel(target string) (kept *mount.MountInfo, err error) {
	for range maxLayers {
		id, err := mountedAt(target)
		switch {
		case errors.Is(err, ErrCorrupted):
		case err != nil:
			return nil, err
		case id == 0:
			return nil, nil
		default:
			if kept, err = inspect(target); err != nil || kept != nil {
				return kept, err
			}
		}
		if removed, err := removeLayer(target); err != nil {
			return nil, err
		} else if !removed {
			return nil, errors.New("the mount that is there cannot be removed")
		}
	}
	return nil, fmt.Errorf("more than %d mounts on top of each other", maxLayers)
}

// inspect returns the mount at target if it can be kept: it is a whole memory
// file system, the only mount at target, and mounted nowhere else. A bind
// mount of /dev/shm must not be taken for a volume.
func inspect(target string) (*mount.MountInfo, error) {
	dir, err := openTarget(target)
	if errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ELOOP) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer closeFD(dir)
	var st unix.Statfs_t
	if err := unix.Fstatfs(dir, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
		return nil, nil // corrupted ones fail here
	}
	// Unlike statx, this tells the number of the table on every kernel.
	_, id, err := unix.NameToHandleAt(dir, "", unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("name_to_handle_at: %w", err)
	}
	table, err := mount.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read the table of mounts: %w", err)
	}
	i := slices.IndexFunc(table, func(m mount.MountInfo) bool { return m.ID == id })
	if i < 0 || table[i].Root != "/" {
		return nil, nil
	}
	top := table[i]
	if slices.ContainsFunc(table, func(m mount.MountInfo) bool {
		below := m.ID == top.ParentID && m.MountPoint == top.MountPoint
		elsewhere := m.ID != top.ID && m.Major == top.Major && m.Minor == top.Minor && m.Root == "/"
		return below || elsewhere
	}) {
		return nil, nil
	}
	return &top, nil
}

// adopt brings a memory file system that is kept to the options. Whether it
// may be swapped cannot be changed any more.
func (m *Mounter) adopt(target string, kept mount.MountInfo, o Options) (uint64, error) {
	dir, err := openTarget(target)
	if err != nil {
		return 0, err
	}
	defer closeFD(dir)
	noSwap := slices.Contains(kept.SuperOptions, "noswap")
	data := o.data(noSwap)
	err = unix.Mount("", procPath(dir), "", unix.MS_REMOUNT|mountFlags, data)
	if err != nil {
		return 0, fmt.Errorf("remount with %s: %w", data, err)
	}
	if err := unix.Fchownat(dir, "", -1, o.gid(), unix.AT_EMPTY_PATH); err != nil {
		return 0, fmt.Errorf("chown to group %d: %w", o.gid(), err)
	}
	if err := unix.Chmod(procPath(dir), 0o755); err != nil {
		return 0, fmt.Errorf("chmod: %w", err)
	}
	if !noSwap {
		m.degraded.Add(1)
	}
	return identityOf(dir)
}
