package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

// write writes the page and its plots into a folder.
func (r *results) write(dir string) error {
	for name, content := range r.plots() {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "performance.md"), r.page(), 0o644)
}

// A page is Markdown that is being written.
type page struct{ bytes.Buffer }

func (p *page) printf(format string, args ...any) { fmt.Fprintf(p, format+"\n\n", args...) }

// table writes rows of which the first is the head. Columns after the first
// ones are numbers.
func (p *page) table(names int, rows [][]string) {
	w := tabwriter.NewWriter(p, 0, 0, 1, ' ', 0)
	for i, row := range rows {
		fmt.Fprintf(w, "| %s\t|\n", strings.Join(row, "\t| "))
		if i > 0 {
			continue
		}
		for column := range row {
			mark := "|---\t"
			if column >= names {
				mark = "|--:\t"
			}
			fmt.Fprint(w, mark)
		}
		fmt.Fprintln(w, "|")
	}
	_ = w.Flush() // into memory: cannot fail
	p.WriteByte('\n')
}

// page returns the page.
func (r *results) page() []byte {
	p := new(page)
	r.writeHead(p)
	r.writeAims(p)
	r.writeCalls(p)
	r.writeCosts(p)
	r.writeBursts(p)
	r.writeSteady(p)
	r.writeMemory(p)
	r.writeStarts(p)
	r.writeGrowth(p)
	r.writePods(p)
	r.writeRest(p)
	return append(bytes.TrimRight(p.Bytes(), "\n"), '\n')
}

func (r *results) writeHead(p *page) {
	p.printf("# Performance, side by side with the upstream driver")
	p.printf("Written by `%s`; nothing here is typed by hand. Absolute times are those of one machine in one run; ratios are what carries over.", r.command())
	p.printf(`Both drivers run as they are released, as processes on one machine, with the flags of their charts and rotation enabled: Keymount %s
(`+"`CGO_ENABLED=0`, `GOEXPERIMENT=runtimesecret`, confined by its sandbox"+`) and the upstream Secrets Store CSI driver %s. Both use one
kube-apiserver %s with etcd in memory, and one process that is a provider of the v1alpha1 protocol and answers with files of 1 KiB. They are called
over their CSI sockets as kubelet calls them, in turn (A B A B) in one run, so that whatever else the machine does meets both. Neither has
limits of CPU or memory. The upstream driver runs without its two sidecars, which are published as images only, so their memory is not in any number here.`,
		r.Built.Ours, r.Built.Upstream, r.Built.Kubernetes)
	p.printf(`The floor is what no driver can do without: one empty gRPC call to another process, and the bare system calls (mount, mkdir, open, write,
symlink, rename, unlink, umount, rmdir), made one after the other with nothing around them.`)
	m := r.Machine
	p.printf("Machine: %d CPUs (%s, %s), %.0f GiB of memory, Linux %s, %s.", m.CPUs, m.Processor, m.Arch, float64(m.Memory)/(1<<30), m.Linux, r.Built.Go)
	if r.Settings.Quick {
		p.printf("This was a quick run: few samples, of which p99 is nearly the worst.")
	}
}

func (r *results) command() string {
	command := "make bench-peers"
	if r.Settings.Quick {
		command += " QUICK=1"
	}
	if r.Pods != nil {
		command += " E2E=1"
	}
	return command
}

// find returns what was measured of an operation under a load, or an empty cell.
func (r *results) find(op string, files int, latency time.Duration, callers int) cell {
	for _, c := range r.Cells {
		if c.Operation == op && c.Files == files && c.Latency == latency && c.Callers == callers {
			return c
		}
	}
	return cell{}
}

func (r *results) writeCalls(p *page) {
	p.printf("## Calls, one at a time")
	p.printf("![Median of each call](performance-calls.svg)")
	p.printf(`A store that answers at once, and %d rounds. Publish is that of a pod whose class another pod of the node uses already; the first of its
class is a row of its own. The interval is over where a volume is older than rotation-poll-interval: the upstream driver then fetches in kubelet's
call and makes two requests to write the status object, whether something changed or not; Keymount refreshes by its own clock and not in kubelet's call, so that its row is that of
the same call. Rotation
counts from the moment at which the provider is asked until the files are swapped, %d times. Before each call there is a pause of %v, since
kubelet calls much later: what a driver still does after an answer, such as Keymount's write of the status object, does not count for the next call. Between rounds the pause is
longer, so that the upstream driver's client (20 calls of the API server in a second, 30 at once) never waits.`,
		r.Settings.Rounds, r.Settings.Turns*rotated, settling)
	p.table(2, r.callRows(0, 1))
	p.printf("Unpublish calls that failed, because the mount was busy, and were repeated at once as a part of the same sample, in the whole run: Keymount %d, upstream %d.", r.Repeated[0], r.Repeated[1])
	p.printf("## Calls, with a slow store")
	p.printf("A store that takes %v, one call at a time, %d rounds. Rotation is left out: the interval is counted from the store's answer.", slow, r.Settings.SlowRounds)
	p.table(2, r.callRows(slow, 1))
	for _, latency := range []time.Duration{0, slow} {
		p.printf("## Calls, %d at once, store %s", atOnce, latencyName(latency))
		p.printf("%d rounds of %d volumes, each of its own service account, so that no fetch is shared.%s", r.Settings.Batches, atOnce, waiting(latency))
		p.table(2, r.callRows(latency, atOnce))
	}
}

// waiting says what p99 shows where a store is slow.
func waiting(latency time.Duration) string {
	if latency == 0 {
		return ""
	}
	return " Keymount lets one namespace make 8 calls of a provider at once, and all of them 16, so that neither a store nor other namespaces suffer; the other volumes wait for that, and the upstream driver's do not."
}

func latencyName(d time.Duration) string {
	if d == 0 {
		return "at once"
	}
	return "after " + d.String()
}

func (r *results) callRows(latency time.Duration, callers int) [][]string {
	rows := [][]string{{"operation", "files", "Keymount p50", "p99", "upstream p50", "p99", "floor p50", "p99", "upstream / Keymount p50", "p99", "Keymount / floor p50", "p99"}}
	for _, c := range r.Cells {
		if c.Latency != latency || c.Callers != callers {
			continue
		}
		t := c.Took
		rows = append(rows, []string{
			c.Operation, fmt.Sprint(c.Files), took(t.Ours.P50()), took(t.Ours.P99()), took(t.Upstream.P50()), took(t.Upstream.P99()), took(t.Floor.P50()), took(t.Floor.P99()),
			ratio(t.Upstream.P50(), t.Ours.P50()), ratio(t.Upstream.P99(), t.Ours.P99()), ratio(t.Ours.P50(), t.Floor.P50()), ratio(t.Ours.P99(), t.Floor.P99()),
		})
	}
	return rows
}

func (r *results) writeBursts(p *page) {
	p.printf("## A burst")
	p.printf("![%d volumes at once](performance-burst.svg)", burstVolumes)
	p.printf(`%d volumes of %d files at once, from a store that takes %v, until the last is published; the median of %d. The upstream driver asks once for
each volume, and waits for its own client, which makes 20 calls of the API server in a second; Keymount asks once for each class and service account.`,
		burstVolumes, burstFiles, slow, r.Settings.Bursts)
	rows := [][]string{{"service accounts", "Keymount", "upstream", "upstream / Keymount", "provider calls, Keymount", "upstream"}}
	for _, b := range r.Bursts {
		rows = append(rows, []string{fmt.Sprint(b.Accounts), took(b.Ours.P50()), took(b.Upstream.P50()), ratio(b.Upstream.P50(), b.Ours.P50()), fmt.Sprint(b.OurCalls), fmt.Sprint(b.UpCall)})
	}
	p.table(1, rows)
}

func (r *results) writeSteady(p *page) {
	p.printf("## An hour in which nothing changes")
	p.printf(`%d volumes of %d service accounts, rotation every %v, and a call of kubelet every %v for each. It was watched for %v, while time passed %d times as
fast for both (shorter intervals, in proportion), and is counted for an hour; what a driver needs at rest is not taken times %[6]d. API requests are those that the API server
counted for what drivers use, by verb; watches count when they end.`,
		r.Settings.SteadyVolumes, steadyAccounts, pollInterval, kubeletEvery, r.Settings.Steady, r.Settings.Compressed)
	rows := [][]string{{"driver", "provider calls", "API writes", "API requests by verb", "CPU seconds"}}
	for _, s := range r.Steady {
		rows = append(rows, []string{displayName(s.Driver), number(s.Calls), number(s.Requests.writes()), s.Requests.String(), fmt.Sprintf("%.1f", s.CPU.Seconds())})
	}
	p.table(1, rows)
}

func (r *results) writeStarts(p *page) {
	p.printf("## Start and size")
	p.printf("From the start of the process; the median and the worst of %d.", r.Settings.Starts)
	a, b := r.Starts.Answers, r.Starts.Publishes
	p.table(1, [][]string{
		{"until", "Keymount", "worst", "upstream", "worst", "upstream / Keymount"},
		{"it answers on its socket", took(a.Ours.P50()), took(a.Ours.Quantile(1)), took(a.Upstream.P50()), took(a.Upstream.Quantile(1)), ratio(a.Upstream.P50(), a.Ours.P50())},
		{"its first volume is published", took(b.Ours.P50()), took(b.Ours.Quantile(1)), took(b.Upstream.P50()), took(b.Upstream.Quantile(1)), ratio(b.Upstream.P50(), b.Ours.P50())},
	})
	p.printf("Programs as released, and packed as a layer of an image is. Keymount's image has nothing else but certificates; the upstream image adds a Debian base with mount(8), and its pod two more images.")
	rows := [][]string{{"program", "size", "packed"}}
	for _, b := range r.Built.Programs {
		rows = append(rows, []string{b.Name, mebibytes(b.Size), mebibytes(b.Packed)})
	}
	p.table(1, rows)
}

func (r *results) writeRest(p *page) {
	p.printf("## How to reproduce")
	p.printf("On Linux with Go, git and make, as root:")
	fmt.Fprintf(p, "    make bench-peers            # all of it, half an hour on two cores\n    make bench-peers QUICK=1    # five minutes\n    make bench-peers E2E=1      # also pods in a cluster: a quarter of an hour more, five minutes with QUICK=1\n\n")
	p.printf(`This run took %.0f minutes. The first one builds Kubernetes, etcd and the upstream driver from the Go module proxy, which takes about 15 minutes of CPU time. The upstream driver
needs a module, monis.app/mlog, that is replaced by a few lines over klog with the same functions. Everything runs in a mount namespace of its own, and in a
folder in memory that goes with it. Let nothing else run. Where the upstream driver decides by the age of a folder whether a refresh is due, the folder is given an
older time instead of waiting; nothing else about either driver is changed. `+"`test/bench`"+` is the code.`, r.Took.Minutes())
}
