package tmpfs

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

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

// inspect returns the topmost mount at target if it can be kept: it is a whole
// memory file system, nothing is mounted below it, and it belongs to target.
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
	byID := map[int]mount.MountInfo{}
	for _, m := range table {
		byID[m.ID] = m
	}
	top, parent := byID[id], byID[byID[id].ParentID]
	if top.Root != "/" || parent.MountPoint == top.MountPoint || !belongs(top, byID) {
		return nil, nil
	}
	return &top, nil
}

// belongs reports whether the file system of a mount is mounted on that one
// directory and on no other. Where two mounts show the same directory, as when
// kubelet's folder is mounted into the driver's container twice, then the one
// volume appears in both. A bind mount of /dev/shm, or of the volume of another
// pod, does not belong to its target: that file system has a directory of its
// own elsewhere. (This tells as much as the mount namespace of the caller shows.)
func belongs(top mount.MountInfo, byID map[int]mount.MountInfo) bool {
	on := directoryOf(top, byID[top.ParentID])
	for _, m := range byID {
		same := m.Major == top.Major && m.Minor == top.Minor && m.Root == "/"
		if same && m.ID != top.ID && directoryOf(m, byID[m.ParentID]) != on {
			return false
		}
	}
	return true
}

// A directory is named by its file system and its path in that.
type directory struct {
	major, minor int
	path         string
}

// directoryOf tells what a mount is mounted on.
func directoryOf(m, parent mount.MountInfo) directory {
	inside := strings.TrimPrefix(m.MountPoint, parent.MountPoint)
	return directory{parent.Major, parent.Minor, path.Join(parent.Root, inside)}
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
