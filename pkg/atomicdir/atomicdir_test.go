package atomicdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWriteEndsWithExactlyTheFiles(t *testing.T) {
	tests := []struct {
		name     string
		old, new []string
	}{
		{"the first write", nil, []string{"a", "b/c", "b/d/e"}},
		{"new bytes for the same paths", []string{"a", "b/c"}, []string{"a", "b/c"}},
		{"paths that come and go", []string{"a", "b/c", "d"}, []string{"d", "e/f"}},
		{"a file that becomes a directory", []string{"a"}, []string{"a/b"}},
		{"a directory that becomes a file", []string{"a/b/c"}, []string{"a"}},
		{"names that sort between a directory and its files", nil, []string{"a/b", "a-c", "a/d", "a.e", "a0"}},
		{"names with dots, spaces and no UTF-8", nil, []string{".a", ". ", "a..", "\xff\xfe", "b/.c"}},
		{"many files", nil, many(300)},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := memDir(t)
			old, _ := canary(test.old...)
			mustWrite(t, dir, old, nil)
			checkExact(t, dir, old, os.Getegid())
			files, _ := canary(test.new...)
			if !mustWrite(t, dir, files, nil) {
				t.Error("Write reported no change")
			}
			checkExact(t, dir, files, os.Getegid())
		})
	}
}

func many(n int) (paths []string) {
	for i := range n {
		paths = append(paths, string(rune('a'+i%20))+"/"+string(rune(0x4e00+i)))
	}
	return paths
}

func TestWriteOfLargeFilesNoticesTheLastByte(t *testing.T) {
	dir := memDir(t)
	data := make([]byte, 1<<20)
	mustWrite(t, dir, []File{{Path: "a", Mode: 0o600, Data: data}}, nil)
	if mustWrite(t, dir, []File{{Path: "a", Mode: 0o600, Data: data}}, nil) {
		t.Error("Write of equal bytes reported a change")
	}
	data[len(data)-1] = 1
	if !mustWrite(t, dir, []File{{Path: "a", Mode: 0o600, Data: data}}, nil) {
		t.Error("Write of other bytes reported no change")
	}
}

func TestB30WriteOfNoFilesEmptiesTheDirectory(t *testing.T) {
	dir := memDir(t)
	files, text := canary("a", "b/c")
	mustWrite(t, dir, files, nil)
	mustWrite(t, dir, nil, nil)
	checkExact(t, dir, nil, 0)
	checkNowhere(t, dir, text)
	if mustWrite(t, dir, nil, nil) {
		t.Error("a second Write of no files reported a change")
	}
}

func TestWriteTouchesNothingWhenAllIsEqual(t *testing.T) {
	dir := memDir(t)
	files, _ := canary("a", "b/c", "b/d/e")
	files = append(files, File{Path: "empty", Mode: 0o400})
	mustWrite(t, dir, files, nil)
	before := stats(t, dir)
	if mustWrite(t, dir, files, nil) {
		t.Error("Write of equal files reported a change")
	}
	if diff := cmp.Diff(before, stats(t, dir)); diff != "" {
		t.Errorf("inodes (-before +after):\n%s", diff)
	}
}

// stats tells the inode, the modification and the change time of all of dir.
func stats(t *testing.T, dir string) map[string][3]int64 {
	t.Helper()
	all := map[string][3]int64{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st syscall.Stat_t
		err = errors.Join(err, syscall.Lstat(path, &st))
		all[path] = [3]int64{int64(st.Ino), st.Mtim.Nano(), st.Ctim.Nano()}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestB14WriteAppliesAChangeOfModeAlone(t *testing.T) {
	dir := memDir(t)
	modes := []fs.FileMode{0o644, 0o400, 0o777, 0o200, 0}
	for _, mode := range modes {
		files := []File{{Path: "a", Mode: mode, Data: []byte("same")}, {Path: "b/c", Mode: mode, Data: []byte("same")}}
		if !mustWrite(t, dir, files, nil) {
			t.Errorf("mode %v: Write reported no change", mode)
		}
		for _, f := range files {
			info, err := os.Stat(filepath.Join(dir, f.Path))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != mode {
				t.Errorf("mode of %s = %v, want %v", f.Path, info.Mode(), mode)
			}
		}
	}
}

func TestModesDoNotDependOnTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o027, 0o077} {
		dir := memDir(t)
		old := syscall.Umask(umask)
		_, err := Write(dir, []File{{Path: "a/b", Mode: 0o646}}, nil)
		syscall.Umask(old)
		if err != nil {
			t.Fatalf("umask %#o: %v", umask, err)
		}
		got := map[string]fs.FileMode{}
		for _, name := range []string{"..data", "a", "a/b"} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			got[name] = info.Mode()
		}
		want := map[string]fs.FileMode{"..data": fs.ModeDir | 0o755, "a": fs.ModeDir | 0o755, "a/b": 0o646}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("umask %#o: modes (-want +got):\n%s", umask, diff)
		}
	}
}

func TestNobodyElseCanOpenAFileThatIsNotReady(t *testing.T) {
	dir := memDir(t)
	watch := calls{before: func(call, name string) error {
		return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			info, err := d.Info()
			if err == nil && info.Mode() != 0 && info.Mode() != 0o640 {
				t.Errorf("before %s %s: mode %v", call, name, info.Mode())
			}
			if err == nil && info.Size() > 0 && info.Mode() != 0o640 {
				t.Errorf("before %s %s: content came before the mode", call, name)
			}
			return err
		})
	}}
	files := []File{{Path: "a", Mode: 0o640, Data: []byte("x")}, {Path: "b/c", Mode: 0o640, Data: []byte("y")}}
	if _, err := write(watch, dir, files, nil); err != nil {
		t.Fatal(err)
	}
}

func TestWriteSetsTheGroupOfFilesAndDirectories(t *testing.T) {
	dir := memDir(t)
	files, text := canary("a", "b/c")
	group, ok := otherGroup(t)
	if !ok { // then no group but the own one can be set, and trying changes nothing
		group = 4321
		if changed, err := Write(dir, files, &Options{Group: &group}); changed || !errors.Is(err, fs.ErrPermission) {
			t.Fatalf("Write with a foreign group = %v, %v", changed, err)
		}
		checkNowhere(t, dir, text)
		return
	}
	mustWrite(t, dir, files, nil)
	checkExact(t, dir, files, os.Getegid())

	with := &Options{Group: &group}
	if !mustWrite(t, dir, files, with) {
		t.Error("Write of another group reported no change")
	}
	checkExact(t, dir, files, int(group))
	for _, name := range []string{"..data", "b"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if gid := info.Sys().(*syscall.Stat_t).Gid; gid != uint32(group) {
			t.Errorf("group of %s = %d, want %d", name, gid, group)
		}
	}
	if mustWrite(t, dir, files, with) {
		t.Error("Write of the same group reported a change")
	}
	if err := os.Chown(filepath.Join(dir, "a"), -1, os.Getegid()); err != nil {
		t.Fatal(err)
	}
	if !mustWrite(t, dir, files, with) {
		t.Error("Write reported no change, though one file had another group")
	}
	checkExact(t, dir, files, int(group))
	if !mustWrite(t, dir, files, nil) {
		t.Error("Write without the group reported no change")
	}
	checkExact(t, dir, files, os.Getegid())
}

func TestASetGroupIDDirectoryHandsItsGroupToEverything(t *testing.T) {
	dir := memDir(t)
	group, ok := otherGroup(t)
	if !ok {
		group = int64(os.Getegid())
	}
	if err := errors.Join(os.Chown(dir, -1, int(group)), os.Chmod(dir, 0o755|fs.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	files, _ := canary("a", "b/c/d")
	mustWrite(t, dir, files, nil)
	checkExact(t, dir, files, int(group))
	if mustWrite(t, dir, files, nil) {
		t.Error("a second Write reported a change")
	}
}

func TestWriteRefusesAGroupThatIsNone(t *testing.T) {
	for _, group := range []int64{-1, 1<<32 - 1, 1 << 40} {
		dir := memDir(t)
		if changed, err := Write(dir, nil, &Options{Group: &group}); changed || !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("Write with group %d = %v, %v, want fs.ErrInvalid", group, changed, err)
		}
		if got := names(t, dir); len(got) > 0 {
			t.Errorf("group %d: the directory holds %q", group, got)
		}
	}
}

func TestWriteRefusesWhatIsNoDirectory(t *testing.T) {
	real := memDir(t)
	link := filepath.Join(memDir(t), "link")
	mustLink(t, real, link)
	plain := filepath.Join(memDir(t), "plain")
	mustPut(t, plain, "")
	for _, dir := range []string{link, plain, filepath.Join(real, "missing")} {
		if changed, err := Write(dir, nil, nil); changed || err == nil {
			t.Errorf("Write(%q) = %v, %v, want an error", dir, changed, err)
		}
	}
	if got := names(t, real); len(got) > 0 {
		t.Errorf("the directory behind the link holds %q", got)
	}
}
