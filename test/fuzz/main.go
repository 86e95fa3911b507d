// Command fuzz runs every fuzz target of one or more modules for some time, as
// many at once as there are processors, and closes with one line of real
// counts. It fails when a target failed, after all have run, and when there is
// none.
//
//	go run ./test/fuzz -modules=.,test/sanity -time=20s
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"
)

func main() {
	modules := flag.String("modules", ".", "`folders` of the modules, separated by commas")
	budget := flag.String("time", "20s", "how long each target runs, or as 100x how often")
	flag.Parse()
	r := &runner{out: os.Stdout, budget: *budget}
	for dir := range strings.SplitSeq(*modules, ",") {
		targets, err := find(dir)
		if err != nil {
			fmt.Fprintf(os.Stdout, "FAIL\tfuzz targets of %s: %v\n", dir, err)
			os.Exit(1)
		}
		r.run(targets)
	}
	os.Exit(r.close())
}

// A runner runs targets and counts.
type runner struct {
	out    io.Writer
	budget string

	mu             sync.Mutex
	passed, failed int
}

// run runs the targets, the first of them first.
func (r *runner) run(targets []target) {
	queue := make(chan target)
	var workers sync.WaitGroup
	for range runtime.NumCPU() {
		workers.Go(func() {
			for t := range queue {
				r.one(t)
			}
		})
	}
	for _, t := range targets {
		queue <- t
	}
	close(queue)
	workers.Wait()
}

// one runs a target on one processor.
func (r *runner) one(t target) {
	start := time.Now()
	cmd := exec.Command("go", "test", "-run=^$", "-fuzz=^"+t.name+"$", "-fuzztime="+r.budget, "-fuzzminimizetime=1s", "-parallel=1", ".")
	cmd.Dir = t.dir
	out, err := cmd.CombinedOutput()
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil && !late.Match(out) {
		r.failed++
		fmt.Fprintf(r.out, "%s\nFAIL\t%s\t%s\n", out, t, time.Since(start).Round(time.Second))
		return
	}
	r.passed++
	fmt.Fprintf(r.out, "ok\t%s\t%s execs\t%s\n", t, execs(out), time.Since(start).Round(time.Second))
}

// late matches the failure of a target for which nothing failed: Go before 1.27
// may take the end of the time for one (golang/go#75804). One that an input
// caused has the name of that, or more to say.
var late = regexp.MustCompile(`(?m)^--- FAIL: Fuzz\w* \([0-9.]+s\)\n    context deadline exceeded\nFAIL$`)

var progress = regexp.MustCompile(`execs: (\d+)`)

// execs returns how many inputs a target has run on, by the last line that says
// so.
func execs(out []byte) string {
	all := progress.FindAllSubmatch(out, -1)
	if len(all) == 0 {
		return "0"
	}
	return string(all[len(all)-1][1])
}

// close prints the counts and returns the exit code.
func (r *runner) close() int {
	fmt.Fprintf(r.out, "%d passed, %d failed, 0 skipped\n", r.passed, r.failed)
	if r.failed > 0 || r.passed == 0 {
		return 1
	}
	return 0
}
