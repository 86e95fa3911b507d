// Package tmpfs mounts one memory file system per volume, by system call.
//
// A Mounter needs CAP_SYS_ADMIN, in a user namespace at least: package userns
// gets an ordinary user there. Plain is a stand-in for where nothing can be
// mounted. Neither forks a process, and only the repair of a target that is a
// mount point already looks at the table of mounts.
package tmpfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// ErrCorrupted is wrapped by Mounted when the mount at a target cannot be
// looked at, because its server is gone. Mount and Unmount remove it.
var ErrCorrupted = errors.New("corrupted mount")

var (
	errNotMounted = errors.New("nothing is mounted there")
	errOtherMount = errors.New("another mount is there")
	errNotEmpty   = fmt.Errorf("%w, and no volume is mounted on it: look at what is in it, and remove that by hand", unix.ENOTEMPTY)
)

// The limits where Options names none. Two generations of a volume's files
// exist for a moment at each rotation.
const (
	DefaultSize   = 16 << 20
	DefaultInodes = 4096
)

// Options limit the memory file system of one volume.
type Options struct {
	Size   int64  // bytes; zero for DefaultSize
	Inodes int64  // files and directories; zero for DefaultInodes
	Group  *int64 // group of its root directory; nil for root
}

func (o Options) size() int64 {
	if o.Size == 0 {
		return DefaultSize
	}
	return o.Size
}

func (o Options) inodes() int64 {
	if o.Inodes == 0 {
		return DefaultInodes
	}
	return o.Inodes
}

func (o Options) gid() int {
	if o.Group == nil {
		return 0
	}
	return int(*o.Group)
}

func (o Options) validate() error {
	switch {
	case o.Size < 0:
		return fmt.Errorf("size %d: %w", o.Size, fs.ErrInvalid)
	case o.Inodes < 0:
		return fmt.Errorf("inodes %d: %w", o.Inodes, fs.ErrInvalid)
	case o.Group != nil && (*o.Group < 0 || *o.Group >= 1<<32-1): // the last one means "no change" to chown
		return fmt.Errorf("group %d: %w", *o.Group, fs.ErrInvalid)
	default:
		return nil
	}
}

// limits are the settings of the file system that can be changed later.
func (o Options) limits() [2][2]string {
	return [2][2]string{
		{"size", strconv.FormatInt(o.size(), 10)},
		{"nr_inodes", strconv.FormatInt(o.inodes(), 10)},
	}
}

// checkTarget refuses paths at which nothing may ever be mounted or removed.
func checkTarget(target string) error {
	if !filepath.IsAbs(target) || filepath.Clean(target) != target || target == "/" {
		return fmt.Errorf("target %q is not an absolute path in its shortest form: %w", target, fs.ErrInvalid)
	}
	return nil
}
