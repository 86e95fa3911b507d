package tmpfs

import (
	"errors"
	"fmt"
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

func TestUnmountRemovesLeftoversAndFollowsNoLink(t *testing.T) {
	m := mustNew(t)
	outside := t.TempDir()
	mustPut(t, filepath.Join(outside, "kept"), "kept")
	target := newTarget(t)
	mustPut(t, filepath.Join(target, "a/b/c"), "x")
	must(t, os.Symlink(outside, filepath.Join(target, "a/link")))
	mustMount(t, m, target, Options{}) // hides them
	must(t, m.Unmount(target))
	checkGone(t, target)

	must(t, os.Symlink(outside, target))
	must(t, m.Unmount(target))
	checkGone(t, target)
	checkFile(t, filepath.Join(outside, "kept"), "kept")
}

func TestUnmountRemovesNothingOfAFileSystemBelow(t *testing.T) {
	m := mustNew(t)
	outside := t.TempDir() // on the same device as the target
	mustPut(t, filepath.Join(outside, "kept"), "kept")
	target := newTarget(t)
	below := filepath.Join(target, "a/below")
	must(t, os.MkdirAll(below, 0o700))
	must(t, unix.Mount(outside, below, "", unix.MS_BIND, ""))
	t.Cleanup(func() { unmountAll(below) })
	mustMount(t, m, target, Options{}) // hides them
	if err := m.Unmount(target); !errors.Is(err, unix.EXDEV) {
		t.Errorf("Unmount = %v, want EXDEV", err)
	}
	checkFile(t, filepath.Join(outside, "kept"), "kept")
	checkFile(t, filepath.Join(below, "kept"), "kept")
}

// Whoever calls Unmount as root with the wrong path must not lose a folder.
func TestUnmountLeavesADirectoryThatWasNeverAVolume(t *testing.T) {
	m := mustNew(t)
	target := newTarget(t)
	mustPut(t, filepath.Join(target, "precious"), "kept")
	if err := m.Unmount(target); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("Unmount = %v, want that the directory is not empty", err)
	}
	checkFile(t, filepath.Join(target, "precious"), "kept")
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
			id, err := m.Mount(target, Options{})
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
