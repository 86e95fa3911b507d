package tmpfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// source is what the table of mounts shows as the origin of a mount.
const source = "keymount"

const (
	mountAttrs = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
	mountFlags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
)

// mountDetached makes a memory file system aside, and moves it onto an open
// directory once it is all that it should be.
func (m *Mounter) mountDetached(dir int, o Options) (uint64, error) {
	fsfd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("fsopen: %w", err)
	}
	defer closeFD(fsfd)
	limits := o.limits()
	settings := append(limits[:], [2]string{"source", source}, [2]string{"mode", "0755"}, [2]string{"gid", strconv.Itoa(o.gid())})
	for _, s := range settings {
		if err := unix.FsconfigSetString(fsfd, s[0], s[1]); err != nil {
			return 0, fmt.Errorf("fsconfig %s=%s: %w", s[0], s[1], err)
		}
	}
	if m.noSwap {
		if err := unix.FsconfigSetFlag(fsfd, "noswap"); err != nil {
			return 0, fmt.Errorf("fsconfig noswap: %w", err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return 0, fmt.Errorf("fsconfig create: %w", err)
	}
	detached, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, mountAttrs)
	if err != nil {
		return 0, fmt.Errorf("fsmount: %w", err)
	}
	defer closeFD(detached)
	// The identity first: nothing can fail after the move.
	id, err := identityOf(detached)
	if err != nil {
		return 0, err
	}
	if err := unix.MoveMount(detached, "", dir, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return 0, fmt.Errorf("move_mount: %w", err)
	}
	return id, nil
}

// mountClassic is for kernels, and seccomp filters, without the calls that
// mountDetached makes.
func (m *Mounter) mountClassic(target string, dir int, o Options) (uint64, error) {
	data := fmt.Sprintf("%s,mode=0755,gid=%d", o.data(m.noSwap), o.gid())
	if err := unix.Mount(source, procPath(dir), "tmpfs", mountFlags, data); err != nil {
		return 0, fmt.Errorf("mount with %s: %w", data, err)
	}
	id, err := mountedAt(target)
	if err == nil && id == 0 {
		err = errors.New("the target was replaced")
	}
	if err != nil {
		_, undo := removeLayer(target)
		return 0, errors.Join(err, undo)
	}
	return id, nil
}

func (o Options) data(noSwap bool) (data string) {
	for i, l := range o.limits() {
		if i > 0 {
			data += ","
		}
		data += l[0] + "=" + l[1]
	}
	if noSwap {
		data += ",noswap"
	}
	return data
}

// openTarget opens a directory to be mounted on, and refuses a symbolic link.
func openTarget(target string) (int, error) {
	fd, err := unix.Open(target, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, &fs.PathError{Op: "open directory", Path: target, Err: err}
	}
	return fd, nil
}

// checkEmpty reports what must not be covered by a mount, given by an O_PATH
// descriptor.
func checkEmpty(dir int) error {
	f, err := os.Open(procPath(dir))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	switch _, err := f.Readdirnames(1); {
	case errors.Is(err, io.EOF):
		return nil
	case err != nil:
		return err
	default:
		return errNotEmpty
	}
}

// procPath returns a path that leads to an open file and nowhere else.
func procPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func closeFD(fd int) { _ = unix.Close(fd) }

// made lists the directories that makeDir has made, outermost first.
type made []string

// makeDir makes a directory, and those above it. Whatever is there already is
// left as it is.
func makeDir(path string) (made, error) {
	err := os.Mkdir(path, 0o750)
	var above made
	if errors.Is(err, fs.ErrNotExist) {
		if above, err = makeDir(filepath.Dir(path)); err != nil {
			return nil, err
		}
		err = os.Mkdir(path, 0o750)
	}
	switch {
	case err == nil:
		return append(above, path), nil
	case errors.Is(err, fs.ErrExist):
		return above, nil
	default:
		return nil, errors.Join(err, above.undo())
	}
}

// undo removes the directories, except those that somebody else uses by now.
func (m made) undo() error {
	for i := len(m) - 1; i >= 0; i-- {
		err := unix.Rmdir(m[i])
		switch {
		case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EBUSY):
			return nil
		case err != nil && !errors.Is(err, unix.ENOENT):
			return &fs.PathError{Op: "rmdir", Path: m[i], Err: err}
		}
	}
	return nil
}
