package atomicdir

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// calls are the system calls of this package. They take directories by
// descriptor and never follow a symbolic link in the last element, which is
// the only element they are given: os.Root keeps the same promise, and
// resolves every path anew to do so.
//
// Tests set before, which sees each call and may fail it.
type calls struct {
	before func(call, name string) error
	// removed takes each file that was removed, which it closes; nil leaves it
	// to the kernel.
	removed func(fd int, name string)
}

// ready comes before each system call on name.
func (c calls) ready(call, name string) error {
	if c.before == nil {
		return nil
	}
	return failed(call, name, c.before(call, name))
}

func failed(call, name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", call, name, err)
}

func (c calls) openat(dir int, name string, flags int, mode uint32) (fd int, err error) {
	if err := c.ready("open", name); err != nil {
		return -1, err
	}
	for {
		fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, failed("open", name, err)
		}
	}
}

func (c calls) opendir(dir int, name string) (fd int, err error) {
	return c.openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// opendirHere opens a directory only if no other file system is mounted on it.
func (c calls) opendirHere(dir int, name string) (fd int, err error) {
	if err := c.ready("open", name); err != nil {
		return -1, err
	}
	const flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	fd, err = unix.Openat2(dir, name, &unix.OpenHow{Flags: flags, Resolve: unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS})
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return fd, failed("open", name, err)
	}
	// Before Linux 5.6 only the device tells; it misses a mount of the same one.
	if fd, err = c.opendir(dir, name); err != nil {
		return -1, err
	}
	var outer, inner unix.Stat_t
	if err := errors.Join(unix.Fstat(dir, &outer), unix.Fstat(fd, &inner)); err != nil || outer.Dev != inner.Dev {
		c.close(fd)
		return -1, failed("open", name, errors.Join(unix.EXDEV, err))
	}
	return fd, nil
}

func (c calls) close(fd int) { _ = unix.Close(fd) }

func (c calls) closeWritten(fd int, name string) error {
	err := c.ready("close", name)
	if closed := unix.Close(fd); err == nil && closed != unix.EINTR { // Linux closes it either way
		err = failed("close", name, closed)
	}
	return err
}

func (c calls) fstat(fd int, name string, st *unix.Stat_t) error {
	if err := c.ready("stat", name); err != nil {
		return err
	}
	return failed("stat", name, unix.Fstat(fd, st))
}

func (c calls) fchmod(fd int, name string, mode uint32) error {
	if err := c.ready("chmod", name); err != nil {
		return err
	}
	return failed("chmod", name, unix.Fchmod(fd, mode))
}

func (c calls) fchown(fd int, name string, gid int) error {
	if err := c.ready("chown", name); err != nil {
		return err
	}
	return failed("chown", name, unix.Fchown(fd, -1, gid))
}

func (c calls) mkdirat(dir int, name string) error {
	if err := c.ready("mkdir", name); err != nil {
		return err
	}
	return failed("mkdir", name, unix.Mkdirat(dir, name, 0o700))
}

func (c calls) symlinkat(target string, dir int, name string) error {
	if err := c.ready("symlink", name); err != nil {
		return err
	}
	return failed("symlink", name, unix.Symlinkat(target, dir, name))
}

func (c calls) renameat(fromDir int, from string, toDir int, to string, flags uint) error {
	if err := c.ready("rename", to); err != nil {
		return err
	}
	if flags == 0 {
		return failed("rename", to, unix.Renameat(fromDir, from, toDir, to))
	}
	return failed("rename", to, unix.Renameat2(fromDir, from, toDir, to, flags))
}

// unlinkat removes a name, and hands the file over that had it, if somebody
// wants it.
func (c calls) unlinkat(dir int, name string, flags int) error {
	if err := c.ready("unlink", name); err != nil {
		return err
	}
	file := -1
	if c.removed != nil && flags == 0 {
		file = openToOverwrite(dir, name)
	}
	err := unix.Unlinkat(dir, name, flags)
	switch {
	case file < 0:
	case err == nil:
		c.removed(file, name)
	default:
		c.close(file)
	}
	return failed("unlink", name, err)
}

// readlinkat returns the target of a link, or "" if it is over-long for any
// link that this package makes.
func (c calls) readlinkat(dir int, name string) (string, error) {
	if err := c.ready("readlink", name); err != nil {
		return "", err
	}
	var buf [len(dataName) + 1 + maxElement + 1]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if err != nil || n == len(buf) {
		return "", failed("readlink", name, err)
	}
	return string(buf[:n]), nil
}

func (c calls) write(fd int, name string, data []byte) error {
	for len(data) > 0 {
		if err := c.ready("write", name); err != nil {
			return err
		}
		n, err := unix.Write(fd, data)
		if err != nil && err != unix.EINTR {
			return failed("write", name, err)
		}
		data = data[max(n, 0):]
	}
	return nil
}

func (c calls) read(fd int, name string, buf []byte) (n int, err error) {
	if err := c.ready("read", name); err != nil {
		return 0, err
	}
	for {
		n, err = unix.Read(fd, buf)
		if err != unix.EINTR {
			return n, failed("read", name, err)
		}
	}
}

// list returns the names in an open directory, which may have been read before.
func (c calls) list(dir int, name string) (names []string, err error) {
	if _, err := unix.Seek(dir, 0, unix.SEEK_SET); err != nil {
		return nil, failed("seek", name, err)
	}
	var buf [4096]byte
	for {
		if err := c.ready("readdir", name); err != nil {
			return nil, err
		}
		n, err := unix.ReadDirent(dir, buf[:])
		if err != nil {
			return nil, failed("readdir", name, err)
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(buf[:n], -1, names)
	}
}
