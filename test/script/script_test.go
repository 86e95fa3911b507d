package script

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/keymount/keymount/pkg/tmpfs/userns"
)

var update = flag.Bool("update", false, "write what the commands print into the scripts that compare it")

// repository is the folder of the module, from here.
const repository = "../.."

// TestMain gives the tests a mount namespace, and the commands in their PATH.
func TestMain(m *testing.M) { os.Exit(userns.Main(suite{m})) }

// A suite builds the commands before the tests and removes them afterwards.
type suite struct{ m *testing.M }

func (s suite) Run() int {
	bin, err := os.MkdirTemp("", "keymount-bin-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(bin)
	if err := build(bin); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return s.m.Run()
}

// build builds the commands into bin and puts that in front of the PATH. It
// opens the files of the commands, so that `go test` does not take a result
// from its cache when they have changed; those of the packages are imported.
func build(bin string) error {
	files, err := filepath.Glob(filepath.Join(repository, "cmd/*/*.go"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if _, err := os.ReadFile(file); err != nil {
			return err
		}
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-o", bin, "./cmd/...")
	cmd.Dir = repository
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build the commands: %w\n%s", err, out)
	}
	return os.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func TestScripts(t *testing.T) {
	root, err := filepath.Abs(repository)
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Deadline:            time.Now().Add(2 * patience),
		Setup: func(env *testscript.Env) error {
			env.Setenv("REPOSITORY", root)
			env.Setenv("FIRST", rand.Text()) // canaries
			env.Setenv("SECOND", rand.Text())
			return os.Chmod(env.WorkDir, 0o755)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":     exits,
			"sigterm":   sigterm,
			"store":     store,
			"shows":     shows,
			"awaits":    awaits,
			"matches":   matches,
			"discloses": discloses,
			"ready":     ready,
			"publish":   publish,
			"unpublish": unpublish,
			"stats":     stats,
		},
	})
}

// exits runs a command and checks its exit code:
//
//	exits CODE COMMAND [ARG...]
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	default:
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s ended with exit code %d, want %d", args[1], got, want)
	}
}
