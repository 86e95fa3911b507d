package atomicdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func mustOpen(t *testing.T, dir string) *os.File {
	t.Helper()
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil { // Write must not have closed it
			t.Error(err)
		}
	})
	return f
}

func TestWriteInWritesAgainAndAgain(t *testing.T) {
	path := memDir(t)
	dir := mustOpen(t, path)
	for _, paths := range [][]string{{"a", "b/c"}, {"a", "d"}, nil} {
		files, _ := canary(paths...)
		for _, want := range []bool{true, false} {
			if changed, err := WriteIn(dir, files, nil); changed != want || err != nil {
				t.Errorf("WriteIn(%q) = %v, %v, want %v", paths, changed, err, want)
			}
			checkExact(t, path, files, os.Getegid())
		}
	}
}

func TestWriteInStaysInTheOpenDirectory(t *testing.T) {
	real, other := filepath.Join(memDir(t), "dir"), memDir(t)
	if err := os.Mkdir(real, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := mustOpen(t, real)
	if err := os.Rename(real, real+".moved"); err != nil {
		t.Fatal(err)
	}
	mustLink(t, other, real)
	files, _ := canary("a", "b/c")
	if changed, err := WriteIn(dir, files, nil); !changed || err != nil {
		t.Errorf("WriteIn = %v, %v", changed, err)
	}
	checkExact(t, real+".moved", files, os.Getegid())
	if got := names(t, other); len(got) > 0 {
		t.Errorf("the directory that took its path holds %q", got)
	}
}

func TestWriteInRefusesWhatIsNoOpenDirectory(t *testing.T) {
	closed, err := os.Open(memDir(t))
	if err == nil {
		err = closed.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	plain := filepath.Join(memDir(t), "plain")
	mustPut(t, plain, "")
	removed := memDir(t)
	gone := mustOpen(t, removed)
	if err := os.Remove(removed); err != nil {
		t.Fatal(err)
	}
	files, _ := canary("a")
	for _, dir := range []*os.File{closed, mustOpen(t, plain), gone} {
		if changed, err := WriteIn(dir, files, nil); changed || err == nil {
			t.Errorf("WriteIn(%s) = %v, %v, want an error", dir.Name(), changed, err)
		}
	}
	if changed, err := WriteIn(mustOpen(t, memDir(t)), []File{{Path: ".."}}, nil); changed || !errors.Is(err, ErrPath) {
		t.Errorf("WriteIn of a bad path = %v, %v, want ErrPath", changed, err)
	}
	if _, err := os.Stat(removed); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the removed directory is back: %v", err)
	}
}
