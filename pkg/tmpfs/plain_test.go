package tmpfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func checkPlain(t *testing.T, p *Plain, target string, want uint64) {
	t.Helper()
	if got, err := p.Mounted(target); got != want || err != nil {
		t.Errorf("Mounted(%q) = %d, %v, want %d", target, got, err, want)
	}
}

func TestPlainMakesKeepsAndRemovesADirectory(t *testing.T) {
	var p Plain
	target := filepath.Join(t.TempDir(), "pod", "mount")
	checkPlain(t, &p, target, 0)
	group := int64(os.Getegid())
	id, kept, err := p.Mount(target, Options{Group: &group})
	must(t, err)
	if kept {
		t.Error("a new directory is said to be kept")
	}
	checkPlain(t, &p, target, id)
	mustPut(t, filepath.Join(target, "a/b"), "kept")
	again, kept, err := p.Mount(target, Options{})
	must(t, err)
	if again != id || id == 0 || !kept {
		t.Errorf("identities %d, then %d; kept %v", id, again, kept)
	}
	checkFile(t, filepath.Join(target, "a/b"), "kept")
	info, err := os.Stat(target)
	must(t, err)
	if gid := info.Sys().(*syscall.Stat_t).Gid; info.Mode().Perm() != 0o755 || gid != uint32(group) {
		t.Errorf("mode %v, group %d", info.Mode(), gid)
	}
	for range 2 {
		must(t, p.Unmount(target))
		checkGone(t, target)
		checkPlain(t, &p, target, 0)
	}
	next, _, err := p.Mount(target, Options{})
	must(t, err)
	if next == id {
		t.Error("a new directory has the identity of the old one")
	}
}

func TestPlainRejectsWhatItDidNotMake(t *testing.T) {
	outside := t.TempDir()
	mustPut(t, filepath.Join(outside, "kept"), "kept")
	plant := map[string]func(target string) error{
		"a directory with files": func(target string) error { return os.CopyFS(target, os.DirFS(outside)) },
		"a link":                 func(target string) error { return os.Symlink(outside, target) },
		"a file":                 func(target string) error { return os.WriteFile(target, nil, 0o600) },
	}
	for name, plant := range plant {
		t.Run(name, func(t *testing.T) {
			var p Plain
			target := filepath.Join(t.TempDir(), "mount")
			// Also where an own directory was replaced.
			_, _, err := p.Mount(target, Options{})
			must(t, errors.Join(err, os.Rename(target, target+".old"), plant(target)))
			checkPlain(t, &p, target, 0)
			if id, _, err := p.Mount(target, Options{}); err == nil {
				t.Errorf("Mount = %d, want an error", id)
			}
			if err := p.Unmount(target); err == nil {
				t.Error("Unmount succeeded")
			}
			if _, err := os.Lstat(target); err != nil {
				t.Error(err)
			}
			checkFile(t, filepath.Join(outside, "kept"), "kept")
		})
	}
}

func TestPlainTakesOverAnEmptyDirectory(t *testing.T) {
	var p Plain
	target := t.TempDir()
	checkPlain(t, &p, target, 0)
	id, _, err := p.Mount(target, Options{})
	must(t, err)
	checkPlain(t, &p, target, id)
	must(t, (&Plain{}).Unmount(target)) // an empty one may be removed by anybody
	checkPlain(t, &p, target, 0)
}

func TestPlainLeavesNothingOnError(t *testing.T) {
	var p Plain
	dir := t.TempDir()
	if _, _, err := p.Mount(filepath.Join(dir, "a/b", strings.Repeat("a", 300)), Options{}); err == nil {
		t.Error("Mount succeeded")
	}
	if _, _, err := p.Mount("relative", Options{}); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Mount = %v, want fs.ErrInvalid", err)
	}
	if _, err := p.Mounted("relative"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Mounted = %v, want fs.ErrInvalid", err)
	}
	if err := p.Unmount("/"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("Unmount = %v, want fs.ErrInvalid", err)
	}
	checkGone(t, filepath.Join(dir, "a"))
	if err := unix.Rmdir(dir); err != nil {
		t.Error(err)
	}
}
