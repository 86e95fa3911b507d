package tmpfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnmountOfWhatIsGoneIsSuccess(t *testing.T) {
	m := mustNew(t)
	target := newTarget(t)
	must(t, m.Unmount(target)) // not even a parent
	mustMount(t, m, target, Options{})
	for range 2 {
		must(t, m.Unmount(target))
		checkGone(t, target)
	}
	if _, err := os.Stat(filepath.Dir(target)); err != nil {
		t.Errorf("the parent is not ours to remove: %v", err)
	}
}

func TestUnmountOfABusyMountIsLazy(t *testing.T) {
	m := mustNew(t)
	target := newTarget(t)
	mustMount(t, m, target, Options{})
	mustPut(t, filepath.Join(target, "a"), "still open")
	open, err := os.Open(filepath.Join(target, "a"))
	must(t, err)
	defer func() { _ = open.Close() }()
	if err := unix.Unmount(target, 0); !errors.Is(err, unix.EBUSY) {
		t.Fatalf("the mount is not busy: %v", err)
	}
	must(t, m.Unmount(target))
	checkGone(t, target)
	data := make([]byte, 10)
	if _, err := open.Read(data); err != nil || string(data) != "still open" {
		t.Errorf("the open file reads %q, %v", data, err)
	}
}

// Whoever calls Unmount as root with the wrong path must not lose a folder.
func TestUnmountLeavesWhatWasNeverAVolume(t *testing.T) {
	m := mustNew(t)
	outside := t.TempDir()
	mustPut(t, filepath.Join(outside, "kept"), "kept")
	bind := func(target string) error { return unix.Mount(outside, target, "", unix.MS_BIND, "") }
	tests := []struct {
		name  string
		plant func(t *testing.T, target string) error
		want  error
	}{
		{"a directory with files", func(_ *testing.T, target string) error {
			return os.CopyFS(target, os.DirFS(outside))
		}, unix.ENOTEMPTY},
		{"files that a mount has covered", func(_ *testing.T, target string) error {
			return errors.Join(os.CopyFS(target, os.DirFS(outside)), unix.Mount("tmpfs", target, "tmpfs", 0, ""))
		}, unix.ENOTEMPTY},
		{"a mount below that a mount has covered", func(t *testing.T, target string) error {
			below := filepath.Join(target, "below")
			t.Cleanup(func() { unmountAll(below) })
			return errors.Join(os.MkdirAll(below, 0o700), bind(below), unix.Mount("tmpfs", target, "tmpfs", 0, ""))
		}, unix.ENOTEMPTY},
		{"a link to a directory", func(_ *testing.T, target string) error { return os.Symlink(outside, target) }, unix.ENOTDIR},
		{"a link to a mount", func(t *testing.T, target string) error {
			other := t.TempDir()
			t.Cleanup(func() { unmountAll(other) })
			return errors.Join(bind(other), os.Symlink(other, target))
		}, unix.ENOTDIR},
		{"a file", func(_ *testing.T, target string) error { return os.WriteFile(target, nil, 0o600) }, unix.ENOTDIR},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			target := newTarget(t)
			must(t, os.MkdirAll(filepath.Dir(target), 0o700))
			must(t, test.plant(t, target))
			var left []string
			for range 2 {
				if err := m.Unmount(target); !errors.Is(err, test.want) {
					t.Errorf("Unmount = %v, want %v", err, test.want)
				}
				left = append(left, tree(t, filepath.Dir(target)))
			}
			if left[0] != left[1] || !strings.Contains(left[0], "mount") {
				t.Errorf("left after each Unmount: %q", left)
			}
			checkFile(t, filepath.Join(outside, "kept"), "kept")
		})
	}
}

// tree lists what is below dir.
func tree(t *testing.T, dir string) (paths string) {
	t.Helper()
	must(t, fs.WalkDir(os.DirFS(dir), ".", func(path string, _ fs.DirEntry, err error) error {
		paths += path + "\n"
		return err
	}))
	return paths
}

func TestUnmountIsBounded(t *testing.T) {
	m := mustNew(t)
	target := newTarget(t)
	must(t, os.MkdirAll(target, 0o700))
	for range maxLayers + 1 {
		must(t, unix.Mount("tmpfs", target, "tmpfs", 0, ""))
	}
	if err := m.Unmount(target); err == nil {
		t.Error("Unmount of too many layers succeeded")
	}
	must(t, m.Unmount(target)) // the rest of them
	checkGone(t, target)
}

// A mount whose server is gone: FUSE, where this user may open its device;
// else at least one that is not ours.
func TestACorruptedMountIsRemoved(t *testing.T) {
	for name, act := range map[string]func(m *Mounter, target string) error{
		"by Mount": func(m *Mounter, target string) error {
			id, _, err := m.Mount(target, Options{})
			checkMounted(t, m, target, id)
			return errors.Join(err, m.Unmount(target))
		},
		"by Unmount": func(m *Mounter, target string) error { return m.Unmount(target) },
	} {
		t.Run(name, func(t *testing.T) {
			m := mustNew(t)
			target := newTarget(t)
			must(t, os.MkdirAll(target, 0o700))
			corrupt(t, target)
			if id, err := m.Mounted(target); id == 0 && !errors.Is(err, ErrCorrupted) {
				t.Errorf("Mounted = %d, %v, want an identity or ErrCorrupted", id, err)
			}
			must(t, act(m, target))
			checkGone(t, target)
		})
	}
}

func corrupt(t *testing.T, target string) {
	t.Helper()
	fuse, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		must(t, unix.Mount("ramfs", target, "ramfs", 0, ""))
		return
	}
	data := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fuse)
	must(t, unix.Mount("fuse", target, "fuse", 0, data))
	closeFD(fuse)
	if _, err := os.ReadDir(target); !errors.Is(err, unix.ENOTCONN) {
		t.Fatalf("the mount is not corrupted: %v", err)
	}
}
