// Command tally runs `go test` in one or more modules and closes with one line
// of real counts. It fails when a test failed, when one was skipped, and when
// none ran.
//
//	go run ./test/tally -modules=.,test/sanity -- -race ./...
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

func main() {
	modules := flag.String("modules", ".", "`folders` of the modules, separated by commas")
	verbose := flag.Bool("v", false, "tell each test when it ends, and what packages print themselves")
	flag.Parse()
	t := newTally(os.Stdout)
	t.verbose = *verbose
	for dir := range strings.SplitSeq(*modules, ",") {
		if err := t.module(dir, flag.Args()); err != nil {
			t.failed++
			fmt.Fprintf(os.Stdout, "FAIL\tgo test in %s: %v\n", dir, err)
		}
	}
	os.Exit(t.close())
}

// An event is what `go test -json` prints: see `go doc test2json`.
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build output
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// A test is identified by its package and its full name.
type test struct{ pkg, name string }

// A tally counts tests that have no subtests, and whatever fails besides.
type tally struct {
	out                     io.Writer
	passed, failed, skipped int
	verbose                 bool

	output  map[test]*strings.Builder // of tests that run, and of packages with an empty name
	build   map[string]string         // of import paths that do not compile
	parents map[test]bool             // have subtests
	blamed  map[test]bool             // a subtest failed already
}

func newTally(out io.Writer) *tally {
	return &tally{
		out: out, output: map[test]*strings.Builder{}, build: map[string]string{},
		parents: map[test]bool{}, blamed: map[test]bool{},
	}
}

// module runs the tests of one module. The error says that `go test` itself
// failed in a way that no test shows.
func (t *tally) module(dir string, args []string) error {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Dir = dir
	cmd.Stderr = t.out
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	before := t.failed
	if err := t.read(stdout); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil && t.failed == before {
		return err
	}
	return nil
}

// read counts the events of one run.
func (t *tally) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		var e event
		switch {
		case len(line) == 0:
		case json.Unmarshal(line, &e) != nil:
			fmt.Fprintf(t.out, "%s", line)
		default:
			t.event(e)
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *tally) event(e event) {
	id := test{e.Package, e.Test}
	switch e.Action {
	case "build-output":
		t.build[e.ImportPath] += e.Output
	case "run":
		if i := strings.LastIndex(e.Test, "/"); i >= 0 {
			t.parents[test{e.Package, e.Test[:i]}] = true
		}
	case "output":
		if t.verbose && e.Test == "" {
			fmt.Fprint(t.out, e.Output)
			return
		}
		if t.output[id] == nil {
			t.output[id] = &strings.Builder{}
		}
		t.output[id].WriteString(e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			t.packageEnds(id, e)
		} else {
			t.testEnds(id, e)
		}
		delete(t.output, id)
	}
}

func (t *tally) testEnds(id test, e event) {
	switch {
	case e.Action == "fail":
		if !t.blamed[id] {
			t.failed++
		}
		t.blame(id)
		t.show(id)
	case e.Action == "skip":
		t.skipped++
		t.show(id)
	case !t.parents[id]:
		t.passed++
	}
	if t.verbose {
		fmt.Fprintf(t.out, "%s\t%s (%.1fs)\n", e.Action, e.Test, e.Elapsed)
	}
}

// blame marks what contains the test, so that a failure counts once.
func (t *tally) blame(id test) {
	for i := strings.LastIndex(id.name, "/"); i >= 0; i = strings.LastIndex(id.name, "/") {
		id.name = id.name[:i]
		t.blamed[id] = true
	}
	t.blamed[test{id.pkg, ""}] = true
}

func (t *tally) packageEnds(id test, e event) {
	switch e.Action {
	case "pass":
		fmt.Fprintf(t.out, "ok\t%s\t%.1fs\n", e.Package, e.Elapsed)
	case "fail":
		if !t.blamed[id] { // it does not compile, or TestMain failed, or it crashed
			t.failed++
		}
		fmt.Fprint(t.out, t.build[e.FailedBuild])
		t.show(id)
		fmt.Fprintf(t.out, "FAIL\t%s\t%.1fs\n", e.Package, e.Elapsed)
	}
}

// show prints what a test or a package printed.
func (t *tally) show(id test) {
	if out := t.output[id]; out != nil {
		fmt.Fprint(t.out, out.String())
	}
}

// close prints the counts and returns the exit code.
func (t *tally) close() int {
	fmt.Fprintf(t.out, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
	if t.failed > 0 || t.skipped > 0 || t.passed == 0 {
		return 1
	}
	return 0
}
