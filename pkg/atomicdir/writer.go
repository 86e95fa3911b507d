package atomicdir

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dataName = "..data"     // the link to the generation that is read
	tempName = "..data_tmp" // a link on its way to its name

	generationTime = "..2006_01_02_15_04_05."
)

// link returns what the top-level link of a name points to.
func link(name string) string { return dataName + "/" + name }

// A writer works on one open directory.
type writer struct {
	calls
	dir   int // descriptor of the directory, the caller's to close
	gid   int // group that every file must have
	chown bool
}

func newWriter(sys calls, dir int, opts *Options) (*writer, error) {
	w := &writer{calls: sys, dir: dir}
	if opts != nil && opts.Removed != nil {
		w.removed = func(fd int, name string) { opts.Removed(os.NewFile(uintptr(fd), name)) }
	}
	var err error
	if w.gid, w.chown, err = opts.group(); err != nil {
		return nil, err
	}
	if w.chown {
		return w, nil
	}
	// A set-group-ID bit would hand the group to some of the new entries only.
	var st unix.Stat_t
	if err := w.fstat(w.dir, ".", &st); err != nil {
		return nil, err
	}
	if w.chown = st.Mode&unix.S_ISGID != 0; w.chown {
		w.gid = int(st.Gid)
	} else {
		w.gid = os.Getegid()
	}
	return w, nil
}

// mkgen makes an empty generation that only its owner can enter.
func (w *writer) mkgen() (name string, err error) {
	for range 10 {
		name = fmt.Sprintf("%s%d", time.Now().UTC().Format(generationTime), rand.Uint32())
		if err = w.mkdirat(w.dir, name); !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	return name, err
}

// fill writes entries into the new directory name of parent. Nobody else can
// enter the directory before it is filled.
func (w *writer) fill(parent int, name string, entries []entry) error {
	dir, err := w.opendir(parent, name)
	if err != nil {
		return err
	}
	defer w.close(dir)
	for _, e := range entries {
		if e.file != nil {
			err = w.create(dir, e.name, e.file)
		} else if err = w.mkdirat(dir, e.name); err == nil {
			err = w.fill(dir, e.name, e.entries)
		}
		if err != nil {
			return err
		}
	}
	return w.own(dir, name, dirMode)
}

// create writes one file. Nobody else can open it before group and mode are
// right, and it is empty until then.
func (w *writer) create(dir int, name string, f *File) (err error) {
	fd, err := w.openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	err = w.own(fd, name, uint32(f.Mode))
	if err == nil {
		err = w.write(fd, name, f.Data)
	}
	return errors.Join(err, w.closeWritten(fd, name))
}

func (w *writer) own(fd int, name string, mode uint32) error {
	if w.chown {
		if err := w.fchown(fd, name, w.gid); err != nil {
			return err
		}
	}
	return w.fchmod(fd, name, mode)
}

// place puts a link under a name in one step. If a directory had that name,
// it has tempName afterwards.
func (w *writer) place(target, name string) error {
	if err := w.symlinkat(target, w.dir, tempName); err != nil {
		return err
	}
	err := w.renameat(w.dir, tempName, w.dir, name, 0)
	if errors.Is(err, unix.EISDIR) {
		err = w.renameat(w.dir, tempName, w.dir, name, unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return errors.Join(err, w.remove(w.dir, tempName))
	}
	return nil
}
