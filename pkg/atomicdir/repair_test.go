package atomicdir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const orphan = "..2020_02_03_04_05_06.789"

func TestB12ALeftoverTemporaryLinkFailsNoWrite(t *testing.T) {
	plant := map[string]func(t *testing.T, at string){
		"a link":      func(t *testing.T, at string) { mustLink(t, orphan, at) },
		"a file":      func(t *testing.T, at string) { mustPut(t, at, "x") },
		"a directory": func(t *testing.T, at string) { mustPut(t, filepath.Join(at, "b/c"), "x") },
	}
	for name, plant := range plant {
		t.Run(name, func(t *testing.T) {
			dir := memDir(t)
			old, _ := canary("a")
			mustWrite(t, dir, old, nil)
			plant(t, filepath.Join(dir, tempName))
			if mustWrite(t, dir, old, nil) {
				t.Error("Write of equal files reported a change")
			}
			checkExact(t, dir, old, os.Getegid())
			plant(t, filepath.Join(dir, tempName))
			files, _ := canary("a", "b")
			mustWrite(t, dir, files, nil)
			checkExact(t, dir, files, os.Getegid())
		})
	}
}

func TestB13OrphanGenerationsAreRemoved(t *testing.T) {
	dir := memDir(t)
	old, _ := canary("a")
	mustWrite(t, dir, old, nil)
	_, text := canary()
	mustPut(t, filepath.Join(dir, orphan, "a/b"), text)
	mustPut(t, filepath.Join(dir, orphan+"0", "c"), text)
	if mustWrite(t, dir, old, nil) {
		t.Error("Write of equal files reported a change")
	}
	checkExact(t, dir, old, os.Getegid())
	checkNowhere(t, dir, text)
}

func TestB13AFailedWriteLeavesNoGeneration(t *testing.T) {
	dir := memDir(t)
	old, _ := canary("a")
	mustWrite(t, dir, old, nil)
	before := names(t, dir)
	full := errors.New("no space")
	sys := calls{before: func(call, _ string) error {
		if call == "write" {
			return full
		}
		return nil
	}}
	files, text := canary("a", "b/c")
	for range 3 {
		if changed, err := write(sys, dir, files, nil); changed || !errors.Is(err, full) {
			t.Fatalf("Write = %v, %v, want %v", changed, err, full)
		}
	}
	if diff := cmp.Diff(before, names(t, dir)); diff != "" {
		t.Errorf("entries (-before +after):\n%s", diff)
	}
	checkExact(t, dir, old, os.Getegid())
	checkNowhere(t, dir, text)
}

func TestB8ThePathDotIsRefusedAndWipesNothing(t *testing.T) {
	dir := memDir(t)
	old, _ := canary("a", "b/c")
	mustWrite(t, dir, old, nil)
	for _, bad := range []string{".", "./", "a/..", "b/../.."} {
		if changed, err := Write(dir, []File{{Path: bad}}, nil); changed || !errors.Is(err, ErrPath) {
			t.Errorf("Write(%q) = %v, %v, want ErrPath", bad, changed, err)
		}
	}
	checkExact(t, dir, old, os.Getegid())
}

func TestWriteRemovesWhatOthersPutThere(t *testing.T) {
	outside := memDir(t)
	mustPut(t, filepath.Join(outside, "kept"), "kept")
	plant := map[string]func(t *testing.T, dir string){
		"a plain file of a wanted name": func(t *testing.T, dir string) { mustPut(t, filepath.Join(dir, "a"), "x") },
		"a directory of a wanted name":  func(t *testing.T, dir string) { mustPut(t, filepath.Join(dir, "a/b/c"), "x") },
		"a link of a wanted name":       func(t *testing.T, dir string) { mustLink(t, outside, filepath.Join(dir, "a")) },
		"files of other names": func(t *testing.T, dir string) {
			mustPut(t, filepath.Join(dir, "x/y"), "x")
			mustPut(t, filepath.Join(dir, "z"), "z")
		},
		"a link out of the directory": func(t *testing.T, dir string) { mustLink(t, outside, filepath.Join(dir, "x")) },
		"a file that looks reserved":  func(t *testing.T, dir string) { mustPut(t, filepath.Join(dir, "..x"), "x") },
		"..data as a file":            func(t *testing.T, dir string) { mustPut(t, filepath.Join(dir, dataName), "x") },
		"..data as a directory":       func(t *testing.T, dir string) { mustPut(t, filepath.Join(dir, dataName, "a"), "x") },
		"..data that leads out":       func(t *testing.T, dir string) { mustLink(t, outside, filepath.Join(dir, dataName)) },
		"..data that leads up":        func(t *testing.T, dir string) { mustLink(t, "..", filepath.Join(dir, dataName)) },
		"..data that leads to itself": func(t *testing.T, dir string) { mustLink(t, dataName, filepath.Join(dir, dataName)) },
		"..data that leads nowhere":   func(t *testing.T, dir string) { mustLink(t, orphan, filepath.Join(dir, dataName)) },
		"..data through a second link": func(t *testing.T, dir string) {
			mustLink(t, orphan, filepath.Join(dir, dataName))
			mustLink(t, outside, filepath.Join(dir, orphan))
		},
		"a generation that is a link": func(t *testing.T, dir string) { mustLink(t, outside, filepath.Join(dir, orphan)) },
		"a generation with a link": func(t *testing.T, dir string) {
			mustPut(t, filepath.Join(dir, orphan, "a"), "x")
			mustLink(t, outside, filepath.Join(dir, orphan, "b"))
		},
	}
	files, _ := canary("a", "b/c")
	for name, plant := range plant {
		t.Run(name, func(t *testing.T) {
			dir := memDir(t)
			plant(t, dir)
			if !mustWrite(t, dir, files, nil) {
				t.Error("Write reported no change")
			}
			checkExact(t, dir, files, os.Getegid())
			if mustWrite(t, dir, files, nil) {
				t.Error("a second Write reported a change")
			}
		})
	}
	if diff := cmp.Diff([]string{"kept"}, names(t, outside)); diff != "" {
		t.Errorf("outside (-want +got):\n%s", diff)
	}
}

func TestWriteRepairsAGenerationThatSomebodyChanged(t *testing.T) {
	change := map[string]func(t *testing.T, data string) error{
		"a file too many": func(t *testing.T, data string) error { mustPut(t, filepath.Join(data, "x"), "x"); return nil },
		"a file too few":  func(_ *testing.T, data string) error { return os.Remove(filepath.Join(data, "a")) },
		"a longer file":   func(t *testing.T, data string) error { mustPut(t, filepath.Join(data, "a"), "longer"); return nil },
		"a file for a directory": func(t *testing.T, data string) error {
			return errors.Join(os.RemoveAll(data+"/b"), os.WriteFile(data+"/b", nil, 0o644))
		},
		"a link for a file": func(t *testing.T, data string) error {
			return errors.Join(os.Rename(data+"/a", data+"/b/a"), os.Symlink("b/a", data+"/a"))
		},
		"a mode of a directory":   func(_ *testing.T, data string) error { return os.Chmod(data+"/b", 0o700) },
		"a set-user-ID bit":       func(_ *testing.T, data string) error { return os.Chmod(data+"/a", 0o644|os.ModeSetuid) },
		"a top-level link is off": func(_ *testing.T, data string) error { return os.Remove(filepath.Dir(data) + "/a") },
	}
	for name, change := range change {
		t.Run(name, func(t *testing.T) {
			dir := memDir(t)
			files, _ := canary("a", "b/c")
			mustWrite(t, dir, files, nil)
			data, err := filepath.EvalSymlinks(filepath.Join(dir, dataName))
			if err != nil {
				t.Fatal(err)
			}
			if err := change(t, data); err != nil {
				t.Fatal(err)
			}
			if !mustWrite(t, dir, files, nil) {
				t.Error("Write reported no change")
			}
			checkExact(t, dir, files, os.Getegid())
		})
	}
}

func TestForeignContentStaysUntilTheNewOneIsInPlace(t *testing.T) {
	dir := memDir(t)
	mustPut(t, filepath.Join(dir, "a"), "legacy")
	mustPut(t, filepath.Join(dir, "gone"), "legacy")
	files, _ := canary("a")
	old := visible(t, dir)
	sys := calls{before: func(call, name string) error {
		_, err := os.Stat(filepath.Join(dir, dataName, "a"))
		if diff := cmp.Diff(old, visible(t, dir)); err != nil && diff != "" {
			t.Errorf("before %s %s: the legacy files changed (-want +got):\n%s", call, name, diff)
		}
		return nil
	}}
	if _, err := write(sys, dir, files, nil); err != nil {
		t.Fatal(err)
	}
	checkExact(t, dir, files, os.Getegid())
}

// A directory is swapped for a link to the outside right before it is opened.
func TestALinkPlantedDuringAWriteLeadsNowhere(t *testing.T) {
	for _, swapped := range []string{"sub", "generation"} {
		t.Run(swapped, func(t *testing.T) {
			dir, outside := memDir(t), t.TempDir()
			files, text := canary("sub/a")
			sys := calls{before: func(call, name string) error {
				matches, err := filepath.Glob(filepath.Join(dir, "..2*"))
				if err != nil || call != "open" || len(matches) == 0 {
					return err
				}
				at := matches[0]
				switch {
				case name == "sub" && swapped == "sub":
					at = filepath.Join(at, "sub")
				case isGeneration(name) && swapped == "generation":
				default:
					return nil
				}
				return errors.Join(os.Rename(at, at+"x"), os.Symlink(outside, at))
			}}
			if changed, err := write(sys, dir, files, nil); changed || err == nil {
				t.Errorf("Write = %v, %v, want an error", changed, err)
			}
			if got := names(t, outside); len(got) > 0 {
				t.Errorf("outside holds %q", got)
			}
			checkNowhere(t, dir, text)
		})
	}
}

// Others may make trees that are deeper than any of ours.
func TestADeepTreeIsRemovedWithFewDescriptors(t *testing.T) {
	dir, outside := memDir(t), memDir(t)
	mustPut(t, filepath.Join(outside, "kept"), "kept")
	deep := strings.Repeat("d/", 1500)
	for _, tree := range []string{orphan, "foreign/" + orphan} {
		mustPut(t, filepath.Join(dir, tree, deep, "file"), "x")
		mustPut(t, filepath.Join(dir, tree, "d/d/e", deep, "file"), "x")
		mustLink(t, outside, filepath.Join(dir, tree, deep, "link"))
	}
	before, most := len(names(t, "/proc/self/fd")), 0
	sys := calls{before: func(call, _ string) error {
		if call == "readdir" {
			most = max(most, len(names(t, "/proc/self/fd"))-before)
		}
		return nil
	}}
	files, _ := canary("a", strings.Repeat("b/", maxDepth-1)+"c")
	if _, err := write(sys, dir, files, nil); err != nil {
		t.Fatal(err)
	}
	checkExact(t, dir, files, os.Getegid())
	if diff := cmp.Diff([]string{"kept"}, names(t, outside)); diff != "" {
		t.Errorf("outside (-want +got):\n%s", diff)
	}
	if most == 0 || most > 4 {
		t.Errorf("%d descriptors were open at once, want 1 to 4", most)
	}
}

func TestRepairRemovesLeftoversAndTouchesNothingElse(t *testing.T) {
	dir := memDir(t)
	if _, err := Write(dir, []File{{Path: "a", Mode: 0o600, Data: []byte("x")}}, nil); err != nil {
		t.Fatal(err)
	}
	current, err := os.Readlink(filepath.Join(dir, dataName))
	if err != nil {
		t.Fatal(err)
	}
	left, foreign := filepath.Join(dir, orphan), filepath.Join(dir, "foreign")
	for _, d := range []string{left, foreign} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	open, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if err := Repair(open); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the orphan is left: %v", err)
	}
	if _, err := os.Lstat(foreign); err != nil {
		t.Errorf("something else is gone: %v", err)
	}
	if now, err := os.Readlink(filepath.Join(dir, dataName)); err != nil || now != current {
		t.Errorf("%s = %q, %v; want %q", dataName, now, err, current)
	}
}
