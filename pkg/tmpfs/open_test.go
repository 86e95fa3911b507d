package tmpfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keymount/keymount/pkg/atomicdir"
)

func TestAnOpenVolumeStaysTheSameWhateverIsOnItsPath(t *testing.T) {
	disk := t.TempDir()
	change := map[string]func(target string) error{
		"nothing":                 func(string) error { return nil },
		"it is covered":           func(target string) error { return unix.Mount(disk, target, "", unix.MS_BIND, "") },
		"it is unmounted lazily":  func(target string) error { return unix.Unmount(target, unix.MNT_DETACH) },
		"the folder is moved off": func(target string) error { return os.Rename(filepath.Dir(target), filepath.Dir(target)+"x") },
	}
	for name, change := range change {
		t.Run(name, func(t *testing.T) {
			m := mustNew(t)
			target := newTarget(t)
			t.Cleanup(func() { unmountAll(filepath.Dir(target) + "x/mount") })
			id := mustMount(t, m, target, Options{})
			dir, err := m.Open(target, id)
			must(t, err)
			defer func() { must(t, dir.Close()) }()
			must(t, change(target))

			fd, err := unix.Openat(int(dir.Fd()), "a", unix.O_CREAT|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
			must(t, err)
			closeFD(fd)
			names, err := dir.Readdirnames(-1)
			must(t, err)
			if len(names) != 1 || names[0] != "a" {
				t.Errorf("the open directory holds %q, want a", names)
			}
			if got, err := identityOf(int(dir.Fd())); name == "it is covered" && (got != id || err != nil) {
				t.Errorf("identity = %d, %v, want %d", got, err, id)
			}
			if left := tree(t, disk); left != ".\n" {
				t.Errorf("elsewhere: %q", left)
			}
			flags, err := unix.FcntlInt(dir.Fd(), unix.F_GETFD, 0)
			if err != nil || flags&unix.FD_CLOEXEC == 0 {
				t.Errorf("descriptor flags %#x, %v, want close-on-exec", flags, err)
			}
		})
	}
}

func TestOpenRefusesWhatIsNotTheVolume(t *testing.T) {
	tests := []struct {
		name   string
		change func(m *Mounter, target string) error
		want   string
	}{
		{"it is unmounted", func(_ *Mounter, at string) error { return unix.Unmount(at, 0) }, "nothing is mounted"},
		{"it is unmounted and removed", func(m *Mounter, at string) error { return m.Unmount(at) }, "nothing is mounted"},
		{"another one is in its place", func(m *Mounter, at string) error {
			_, _, err := m.Mount(at+"x", Options{}) // so that no identity comes again
			return errors.Join(err, unix.Unmount(at, 0), unix.Mount(at+"x", at, "", unix.MS_MOVE, ""))
		}, "another mount"},
		{"another one covers it", func(_ *Mounter, at string) error { return unix.Mount("tmpfs", at, "tmpfs", 0, "") }, "another mount"},
		{"a directory in it covers it", func(_ *Mounter, at string) error {
			return errors.Join(os.Mkdir(at+"/sub", 0o700), unix.Mount(at+"/sub", at, "", unix.MS_BIND, ""))
		}, "another mount"},
		{"a link leads to it", func(_ *Mounter, at string) error {
			return errors.Join(os.Rename(filepath.Dir(at), filepath.Dir(at)+"x"), os.Mkdir(filepath.Dir(at), 0o700),
				os.Symlink(filepath.Dir(at)+"x/mount", at))
		}, "not a directory"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := mustNew(t)
			target := newTarget(t)
			t.Cleanup(func() { unmountAll(target + "x"); unmountAll(filepath.Dir(target) + "x/mount") })
			id := mustMount(t, m, target, Options{})
			must(t, test.change(m, target))
			dir, err := m.Open(target, id)
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), target) {
				t.Errorf("Open = %v, %v, want an error with %q", dir, err, test.want)
			}
		})
	}
}

func TestOpenRefusesADirectoryInsideTheVolume(t *testing.T) {
	m := mustNew(t)
	target := newTarget(t)
	id := mustMount(t, m, target, Options{})
	must(t, os.Mkdir(target+"/sub", 0o700))
	if dir, err := m.Open(target+"/sub", id); !errors.Is(err, errNotMounted) {
		t.Errorf("Open = %v, %v, want %v", dir, err, errNotMounted)
	}
}

// What atomicdir removes as foreign may have something mounted in it.
func TestAWriteIntoAVolumeRemovesNothingOfAFileSystemInIt(t *testing.T) {
	m := mustNew(t)
	target, disk := newTarget(t), t.TempDir()
	mustPut(t, filepath.Join(disk, "sub/kept"), "kept")
	id := mustMount(t, m, target, Options{})
	for source, below := range map[string]string{disk: "x/y/z", target: "u/v", filepath.Join(disk, "sub"): "w"} {
		below = filepath.Join(target, below)
		must(t, os.MkdirAll(below, 0o700))
		must(t, unix.Mount(source, below, "", unix.MS_BIND, ""))
		t.Cleanup(func() { unmountAll(below) })
	}
	dir, err := m.Open(target, id)
	must(t, err)
	defer func() { must(t, dir.Close()) }()
	changed, err := atomicdir.WriteIn(dir, []atomicdir.File{{Path: "a", Mode: 0o600, Data: []byte("new")}}, nil)
	if !changed || !errors.Is(err, unix.EBUSY) {
		t.Errorf("WriteIn = %v, %v, want a change and EBUSY", changed, err)
	}
	checkFile(t, filepath.Join(target, "a"), "new")
	for _, kept := range []string{disk + "/sub", target + "/x/y/z/sub", target + "/w"} {
		checkFile(t, filepath.Join(kept, "kept"), "kept")
	}
}

func TestPlainOpensOnlyTheDirectoryThatItMade(t *testing.T) {
	var p Plain
	target := filepath.Join(t.TempDir(), "pod", "mount")
	id, _, err := p.Mount(target, Options{})
	must(t, err)
	dir, err := p.Open(target, id)
	must(t, err)
	defer func() { must(t, dir.Close()) }()
	mustPut(t, filepath.Join(target, "a"), "")
	if names, err := dir.Readdirnames(-1); len(names) != 1 || err != nil {
		t.Errorf("the open directory holds %q, %v", names, err)
	}
	refuse := func(why string, target string, id uint64, want string) {
		t.Helper()
		if dir, err := p.Open(target, id); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: Open = %v, %v, want an error with %q", why, dir, err, want)
		}
	}
	refuse("another identity", target, id+2, "another mount")
	refuse("not made by Plain", t.TempDir(), id, "nothing is mounted")
	refuse("not there", target+"x", id, "nothing is mounted")
	refuse("not absolute", "mount", id, "absolute")
	must(t, errors.Join(os.Rename(target, target+"x"), os.Mkdir(target, 0o700)))
	refuse("replaced", target, id, "another mount")
	must(t, errors.Join(os.Remove(target), os.Symlink(target+"x", target)))
	refuse("a link", target, id, "not a directory")
}
