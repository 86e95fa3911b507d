package main

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/keymount/keymount/test/perf/floor"
)

// A page is all that was measured.
type page struct {
	rounds, volumes int
	rows            []row
	many            crowd
	heap            int64
}

// write prints the page as Markdown.
func (p *page) write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, `# Benchmarks

Written by `+"`make bench OUT=docs/benchmarks.md`"+`; nothing here is typed by hand. The driver is its own process, called over its CSI socket as kubelet
does; the provider answers at once over a provider socket, one fetch for each publish and rotation. The floor of an operation is one empty gRPC
call to another process, and the system calls that the operation cannot do without (mount, mkdir, open, write, symlink, rename, unlink, umount, rmdir), made one after the
other with nothing around them. Both are measured in turn, %d times each, with files of %d bytes, and each process is woken by a call that does not
count before every one that does. Absolute times are those of this machine; the ratios are what carries over.

Machine: %s, %d CPUs, Linux %s, %s.

`, p.rounds, floor.FileSize, runtime.GOARCH, runtime.NumCPU(), release(), runtime.Version())
	table := tabwriter.NewWriter(&b, 0, 0, 1, ' ', 0)
	fmt.Fprintln(table, "| operation\t| files\t| p50\t| p99\t| floor p50\t| floor p99\t| p50 / floor\t| p99 / floor\t|")
	fmt.Fprintln(table, "|---\t|---\t|---\t|---\t|---\t|---\t|---\t|---\t|")
	for _, r := range p.rows {
		fmt.Fprintf(table, "| %s\t| %d\t| %s\t| %s\t| %s\t| %s\t| %.2f\t| %.2f\t|\n", r.operation, r.files,
			micro(r.took.quantile(.5)), micro(r.took.quantile(.99)), micro(r.floor.quantile(.5)), micro(r.floor.quantile(.99)), ratio(r.took, r.floor, .5), ratio(r.took, r.floor, .99))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, `
With %d volumes of 5 files: publish p50 is %s among the first tenth and %s among the last, a ratio of %.2f. The driver keeps %d bytes of heap for each volume.

Aims: publish at most 3 x the floor, unchanged republish at most 2 x (its floor is the empty gRPC call), a flat cost per volume up to a thousand, and at most 40 KB of heap for each.
`, p.volumes, micro(p.many.first.quantile(.5)), micro(p.many.last.quantile(.5)), ratio(p.many.last, p.many.first, .5), p.heap)
	b.WriteString(p.misses())
	_, err := io.WriteString(w, b.String())
	return err
}

// misses says which aims were missed in this run, and why that is.
func (p *page) misses() string {
	var missed []string
	for _, r := range p.rows {
		got := ratio(r.took, r.floor, .5)
		if r.operation == operationNames[opPublish] && got > 3 || r.operation == operationNames[opRepublish] && got > 2 {
			missed = append(missed, fmt.Sprintf("%s with %d files (%.2f)", r.operation, r.files, got))
		}
	}
	if len(missed) == 0 {
		return "\nAll were met in this run.\n"
	}
	return "\nMissed in this run: " + strings.Join(missed, ", ") + ". A publish makes two gRPC calls, kubelet's and the one to the provider, where its floor counts one; the fewer files, the more that weighs.\n"
}

func ratio(a, b samples, q float64) float64 {
	return float64(a.quantile(q)) / float64(b.quantile(q))
}

func micro(d time.Duration) string { return fmt.Sprintf("%d µs", d.Microseconds()) }

func release() string {
	text, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return "of an unknown release"
	}
	return strings.TrimSpace(string(text))
}
