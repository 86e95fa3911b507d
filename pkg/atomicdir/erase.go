package atomicdir

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Erase removes all that is in an open directory, and overwrites its files. It
// is for a directory that nobody reads any more: who opens a file of it at that
// moment may read zeros. Like WriteIn it works on that directory, whatever its
// path leads to meanwhile; dir stays open, its offset changes.
func Erase(dir *os.File) error {
	sys := calls{removed: overwriteNow}
	names, err := sys.list(int(dir.Fd()), dir.Name())
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, sys.remove(int(dir.Fd()), name))
	}
	return errors.Join(errs...)
}

// overwriteNow is for files that nobody else has seen, or looks for any more.
func overwriteNow(fd int, _ string) {
	_ = overwrite(fd) // it is gone either way
	_ = unix.Close(fd)
}

// openToOverwrite opens a regular file that is about to be removed; -1 if it is
// none that can be written.
func openToOverwrite(dir int, name string) (fd int) {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	return fd
}

// ErrInUse: somebody has the file open, or it has another name.
var ErrInUse = errors.New("the file is in use")

// Overwrite fills a file that was removed with zeros, unless somebody else has
// it open or mapped, who may go on to read it: then the error wraps ErrInUse,
// and the kernel frees the memory when the last one closes it. The kernel tells
// by a lease (fcntl(2), F_SETLEASE), which takes the file's owner or CAP_LEASE.
//
// It does not tell of those who have looked the file up and are about to open
// it: wait for some moments after the removal.
func Overwrite(f *os.File) error {
	if err := overwrite(int(f.Fd())); err != nil {
		return &fs.PathError{Op: "overwrite", Path: f.Name(), Err: err}
	}
	return nil
}

var zeros [16 << 10]byte

func overwrite(fd int) error {
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETLEASE, unix.F_WRLCK); err != nil {
		return errors.Join(err, ErrInUse)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Nlink > 0 {
		return errors.Join(err, ErrInUse)
	}
	for at := int64(0); at < st.Size; at += int64(len(zeros)) {
		if _, err := unix.Pwrite(fd, zeros[:min(st.Size-at, int64(len(zeros)))], at); err != nil {
			return err
		}
	}
	return nil
}
