package atomicdir

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A scenario is a directory, and a Write that replaces what it holds.
type scenario struct {
	name    string
	prepare func(t *testing.T, dir string)
	new     []string
}

var scenarios = []scenario{
	{"the first write", func(*testing.T, string) {}, []string{"a", "b/c"}},
	{"new bytes", writeOld("a", "b/c"), []string{"a", "b/c"}},
	{"to no files", writeOld("a", "b/c"), nil},
	{"everything at once", func(t *testing.T, dir string) {
		writeOld("same", "dir/a", "dir/b", "gone", "became/dir")(t, dir)
		mustPut(t, filepath.Join(dir, "legacy"), "plain")
		mustPut(t, filepath.Join(dir, "legacydir/x/y"), "plain")
		mustPut(t, filepath.Join(dir, "foreign/x"), "foreign")
		mustPut(t, filepath.Join(dir, orphan, "x/y"), "orphan")
		mustLink(t, orphan, filepath.Join(dir, tempName))
	}, []string{"same", "dir/a", "dir/sub/c", "added", "became", "legacy", "legacydir/z"}},
	{"over a ..data that is a directory", func(t *testing.T, dir string) {
		mustPut(t, filepath.Join(dir, dataName, "x"), "foreign")
		mustPut(t, filepath.Join(dir, "a"), "plain")
	}, []string{"a"}},
}

func writeOld(paths ...string) func(t *testing.T, dir string) {
	return func(t *testing.T, dir string) {
		files, _ := canary(paths...)
		mustWrite(t, dir, files, nil)
	}
}

func TestAFailureOfAnySystemCallKeepsOneWholeContent(t *testing.T) {
	broken := errors.New("broken")
	for _, s := range scenarios {
		for _, forGood := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, call fails for good: %v", s.name, forGood), func(t *testing.T) {
				steps := 0
				for done := false; !done; steps++ {
					dir := memDir(t)
					s.prepare(t, dir)
					old := visible(t, dir)
					files, text := canary(s.new...)
					count, failed := 0, ""
					sys := calls{before: func(call, name string) error {
						count++
						if count == steps+1 || count > steps && forGood {
							failed += " " + call + " " + name
							return broken
						}
						return nil
					}}
					changed, err := write(sys, dir, files, nil)
					done = failed == ""
					switch {
					case err == nil:
						checkExact(t, dir, files, os.Getegid())
					case !errors.Is(err, broken):
						t.Errorf("%s: unexpected error: %v", failed, err)
					case changed:
						checkWhole(t, failed, contentOf(files, os.Getegid()), current(t, dir))
					default:
						checkWhole(t, failed, old, visible(t, dir))
						if !forGood { // else the clean-up failed as well
							checkNowhere(t, dir, text)
						}
					}
					mustWrite(t, dir, files, nil)
					checkExact(t, dir, files, os.Getegid())
				}
				if steps < 10 {
					t.Errorf("only %d steps: the faults are not injected", steps)
				}
			})
		}
	}
}

// checkWhole fails unless all of want is seen; what a removal left may be there too.
func checkWhole(t *testing.T, when string, want, got content) {
	t.Helper()
	maps.DeleteFunc(got, func(path string, _ file) bool { _, ok := want[path]; return !ok })
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s: files (-want +got):\n%s", when, diff)
	}
}

// killFlag starts this binary as a writer that kills itself: directory and
// step follow. The writer's files are those of killFiles.
const killFlag = "-atomicdir-kill-at"

func killFiles() []File {
	last := scenarios[3]
	var files []File
	for _, p := range last.new {
		files = append(files, File{Path: p, Mode: 0o640, Data: []byte("new " + p)})
	}
	return files
}

func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == killFlag {
		os.Exit(writeAndDie(os.Args[2], os.Args[3]))
	}
	os.Exit(m.Run())
}

func writeAndDie(dir, step string) int {
	at, err := strconv.Atoi(step)
	if err != nil {
		return 2
	}
	sys := calls{before: func(string, string) error {
		if at--; at < 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
		return nil
	}}
	if _, err := write(sys, dir, killFiles(), nil); err != nil {
		return 1
	}
	return 0
}

func TestAKillAtAnyStepLeavesOneWholeContentAndTheNextWriteRepairs(t *testing.T) {
	var workers sync.WaitGroup
	steps := make(chan int)
	for range 2 {
		workers.Go(func() {
			for step := range steps {
				killAt(t, step)
			}
		})
	}
	total := countSteps(t)
	for step := range total {
		steps <- step
	}
	close(steps)
	workers.Wait()
	if total < 60 {
		t.Errorf("only %d steps: the kills do not cover a Write", total)
	}
}

func countSteps(t *testing.T) (n int) {
	t.Helper()
	dir := memDir(t)
	scenarios[3].prepare(t, dir)
	_, err := write(calls{before: func(string, string) error { n++; return nil }}, dir, killFiles(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func killAt(t *testing.T, step int) {
	dir := memDir(t)
	scenarios[3].prepare(t, dir)
	old, want := visible(t, dir), contentOf(killFiles(), os.Getegid())

	err := exec.Command(os.Args[0], killFlag, dir, strconv.Itoa(step)).Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("step %d: the writer was not killed: %v", step, err)
	}
	when := fmt.Sprintf("killed at %d", step)
	if got := current(t, dir); len(got) == len(want) {
		checkWhole(t, when, want, got)
	} else {
		checkWhole(t, when, old, visible(t, dir))
	}
	if _, err := Write(dir, killFiles(), nil); err != nil {
		t.Errorf("killed at %d: next Write: %v", step, err)
	}
	checkExact(t, dir, killFiles(), os.Getegid())
}

// current reads what "..data" leads to.
func current(t *testing.T, dir string) content {
	t.Helper()
	data := filepath.Join(dir, dataName)
	seen := content{}
	for _, name := range names(t, data) {
		walk(t, filepath.Join(data, name), name, seen)
	}
	return seen
}

func TestReadersAlwaysSeeOneGeneration(t *testing.T) {
	dir := memDir(t)
	paths := []string{"a", "b/c", "d", "e/f/g"}
	versions := func(n int) []File {
		var files []File
		for _, p := range paths {
			files = append(files, File{Path: p, Mode: 0o600, Data: []byte(strconv.Itoa(n))})
		}
		return files
	}
	mustWrite(t, dir, versions(0), nil)
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			whole := 0
			for finished := false; !finished || whole == 0; {
				select {
				case <-done:
					finished = true
				default:
				}
				if readGeneration(t, dir, paths) {
					whole++
				}
			}
		})
	}
	for n := range 300 {
		mustWrite(t, dir, versions(n+1), nil)
	}
	close(done)
	readers.Wait()
}

// readGeneration reads all files of the generation that "..data" leads to,
// and reports false if that was retired meanwhile.
func readGeneration(t *testing.T, dir string, paths []string) bool {
	generation, err := os.Readlink(filepath.Join(dir, dataName))
	if err != nil {
		t.Errorf("..data: %v", err)
		return false
	}
	seen := map[string]bool{}
	for _, p := range paths {
		data, err := os.ReadFile(filepath.Join(dir, generation, p))
		if errors.Is(err, fs.ErrNotExist) {
			now, _ := os.Readlink(filepath.Join(dir, dataName))
			if now == generation {
				t.Errorf("%s is missing in the current generation", p)
			}
			return false
		}
		if err != nil {
			t.Error(err)
		}
		seen[string(data)] = true
	}
	if len(seen) != 1 {
		t.Errorf("one generation holds files of several writes: %v", seen)
	}
	return true
}
