package atomicdir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// replaced writes a file, looks it up without opening it, and replaces it. What
// was removed is returned as well.
func replaced(t *testing.T, old []byte, between func(path string)) (file int, removed *os.File) {
	t.Helper()
	dir := t.TempDir()
	if _, err := Write(dir, []File{{Path: "a/b", Mode: 0o600, Data: old}}, nil); err != nil {
		t.Fatal(err)
	}
	file, err := unix.Open(filepath.Join(dir, "a/b"), unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(file) })
	between(filepath.Join(dir, "a/b"))
	opts := &Options{Removed: func(f *os.File) {
		if f.Name() == "b" && removed == nil {
			removed = f
		} else {
			t.Errorf("%s was removed as well", f.Name())
		}
	}}
	if _, err := Write(dir, []File{{Path: "a/b", Mode: 0o600, Data: []byte("new")}}, opts); err != nil {
		t.Fatal(err)
	}
	if removed == nil {
		t.Fatal("nothing was removed")
	}
	t.Cleanup(func() { _ = removed.Close() })
	return file, removed
}

func TestARemovedFileIsOverwritten(t *testing.T) {
	for _, size := range []int{0, 1, 100, 16 << 10, 40_000} {
		t.Run(fmt.Sprint(size, " bytes"), func(t *testing.T) {
			text := bytes.Repeat([]byte("s"), size)
			file, removed := replaced(t, text, func(string) {})
			if left, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", file)); err != nil || !bytes.Equal(left, text) {
				t.Errorf("before: %.20q, %v", left, err)
			}
			if err := Overwrite(removed); err != nil {
				t.Fatal(err)
			}
			if err := removed.Close(); err != nil {
				t.Fatal(err)
			}
			if left, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", file)); err != nil || !bytes.Equal(left, make([]byte, size)) {
				t.Errorf("afterwards: %.20q, %v", left, err)
			}
		})
	}
}

func TestWhoHasAFileOpenGoesOnReadingIt(t *testing.T) {
	for name, hold := range map[string]func(f *os.File) (func() []byte, error){
		"by a descriptor": func(f *os.File) (func() []byte, error) {
			return func() []byte { text, _ := io.ReadAll(f); return text }, nil
		},
		"by a mapping": func(f *os.File) (func() []byte, error) {
			mapped, err := unix.Mmap(int(f.Fd()), 0, len("old"), unix.PROT_READ, unix.MAP_SHARED)
			return func() []byte { return mapped }, errors.Join(err, f.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			var read func() []byte
			_, removed := replaced(t, []byte("old"), func(path string) {
				f, err := os.Open(path)
				if err == nil {
					read, err = hold(f)
				}
				if err != nil {
					t.Fatal(err)
				}
			})
			if err := Overwrite(removed); !errors.Is(err, ErrInUse) {
				t.Errorf("Overwrite = %v, want %v", err, ErrInUse)
			}
			if got := read(); string(got) != "old" {
				t.Errorf("it reads %q", got)
			}
		})
	}
}

func TestAFileThatHasANameIsNotOverwritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = Overwrite(f)
	_ = f.Close()
	if text, _ := os.ReadFile(path); !errors.Is(err, ErrInUse) || string(text) != "text" {
		t.Errorf("Overwrite = %v, and the file has %q", err, text)
	}
}

func TestEraseLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	files := []File{{Path: "a", Mode: 0o600, Data: []byte("secret")}, {Path: "d/e/f", Mode: 0o600, Data: []byte("secret")}}
	if _, err := Write(dir, files, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "foreign"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for range 2 { // the second finds nothing
		if err := Erase(open); err != nil {
			t.Fatal(err)
		}
		if left := names(t, dir); len(left) > 0 {
			t.Errorf("there is %q", left)
		}
	}
}
