package atomicdir

import (
	"crypto/rand"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// file is what a reader sees of a File.
type file struct {
	Mode  fs.FileMode
	Group uint32
	Data  string
}

// content maps the paths that a reader sees to files.
type content map[string]file

func contentOf(files []File, group int) content {
	c := content{}
	for _, f := range files {
		c[f.Path] = file{f.Mode, uint32(group), string(f.Data)}
	}
	return c
}

// visible reads what a reader of dir sees; links that lead nowhere are not seen.
func visible(t *testing.T, dir string) content {
	t.Helper()
	seen := content{}
	for _, name := range names(t, dir) {
		if !strings.HasPrefix(name, "..") {
			walk(t, filepath.Join(dir, name), name, seen)
		}
	}
	return seen
}

func walk(t *testing.T, at, name string, seen content) {
	t.Helper()
	info, err := os.Stat(at)
	if os.IsNotExist(err) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if info.IsDir() {
		for _, entry := range names(t, at) {
			walk(t, filepath.Join(at, entry), name+"/"+entry, seen)
		}
		return
	}
	data, err := os.ReadFile(at)
	if err != nil {
		t.Fatal(err)
	}
	seen[name] = file{info.Mode(), info.Sys().(*syscall.Stat_t).Gid, string(data)}
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// checkExact fails unless dir holds files and nothing else, in the layout.
func checkExact(t *testing.T, dir string, files []File, group int) {
	t.Helper()
	if diff := cmp.Diff(contentOf(files, group), visible(t, dir)); diff != "" {
		t.Errorf("files seen by a reader (-want +got):\n%s", diff)
	}
	generation, err := os.Readlink(filepath.Join(dir, dataName))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{dataName: generation, generation: ""}
	for _, f := range files {
		top, _, _ := strings.Cut(f.Path, "/")
		want[top] = "..data/" + top
	}
	got := map[string]string{}
	for _, name := range names(t, dir) {
		got[name], _ = os.Readlink(filepath.Join(dir, name))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries and where they lead (-want +got):\n%s", diff)
	}
}

// checkNowhere fails if a file below dir, reachable or not, holds text.
func checkNowhere(t *testing.T, dir, text string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if strings.Contains(string(data), text) {
			t.Errorf("%s holds plaintext that must not be there", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func mustWrite(t *testing.T, dir string, files []File, opts *Options) bool {
	t.Helper()
	changed, err := Write(dir, files, opts)
	if err != nil {
		t.Fatalf("Write(%v): %v", files, err)
	}
	return changed
}

func mustPut(t *testing.T, path, data string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
		t.Fatal(err)
	}
}

func mustLink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// canary returns files whose data nobody else has.
func canary(paths ...string) ([]File, string) {
	text := rand.Text()
	var files []File
	for _, p := range paths {
		files = append(files, File{Path: p, Mode: 0o644, Data: []byte(p + " " + text)})
	}
	return files, text
}

// otherGroup returns a group that this process may give to a file, and ok =
// false if it has but one.
func otherGroup(t *testing.T) (group int64, ok bool) {
	t.Helper()
	groups, err := os.Getgroups()
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		groups = append(groups, 4321)
	}
	dir := memDir(t)
	for _, g := range groups {
		if g != os.Getegid() && g < math.MaxUint16 && os.Chown(dir, -1, g) == nil {
			return int64(g), true
		}
	}
	return 0, false
}

// memDir returns an empty directory, in memory where the system has a place
// for that: the tests make thousands of files.
func memDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "atomicdir")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
