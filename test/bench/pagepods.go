package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/keymount/keymount/test/bench/plot"
	"github.com/keymount/keymount/test/bench/stat"
)

const podsPlot = "performance-pods.svg"

func (r *results) writePods(p *page) {
	p.printf("## Pods in a cluster")
	if r.Pods == nil {
		p.printf("Not measured in this run: `make bench-peers E2E=1` does, as root.")
		return
	}
	turns, atOnce := r.Pods.turns(), r.Pods.atOnce()
	p.printf("![Pods that are ready, of %d created at once](%s)", atOnce, podsPlot)
	p.printf(`From the request that creates a pod until a watch says that it is ready, on the one node of the end-to-end tests (`+"`test/e2e`"+`): this machine, with all servers of Kubernetes %s,
containerd and runc. Both drivers have the same name, so they are installed in turn, each %s: Keymount by its chart; the upstream driver by its manifests, without limits, and with one small
program in place of its two sidecars. Both rotate every %v, and neither asks kubelet for tokens. In each turn pods are created one after another, %d of each kind, which alternate, and
then %d of each kind at once. Each has one busybox container of an image that the node has, the same service account, and no volume but the one that is named: none for a token either. A volume of a driver
has one small file, and the provider, a pod of the node, answers at once.`,
		r.Built.Kubernetes, times(turns), pollInterval, len(r.Pods[ourName][emptyDir].Single)/turns, atOnce)
	p.printf(`"More" is than an emptyDir of the same turns, by medians. One pod waits rather than works: every 100 ms kubelet looks which volumes are to be mounted, and every 300 ms whether those of the pod
are, so that any volume takes a few tenths of a second, and a driver that is done in time adds nothing. With %d at once there is more in it: the work of kubelet for a CSI volume, of the driver, and
of the servers that it calls, beside that for so many containers; and kubelet here syncs pods, and so calls for volumes again, every 10 s instead of every minute. The emptyDirs of both
drivers' turns have nothing to do with a driver, so that they differ by as much as one time differs from the next: a ratio is given where more is more than that. "Until the last" is the median of the turns, from the first request; CPU time is that of the driver's processes, their median, counted in
hundredths of a second; provider calls are the most of any turn, for the %[1]d.`, atOnce)
	p.table(2, r.Pods.rows())
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func (p pods) turns() int { return len(p[ourName][emptyDir].Last) }

func (p pods) atOnce() int { return len(p[ourName][emptyDir].Burst) / p.turns() }

func (p pods) rows() [][]string {
	rows := [][]string{{"installed", "pods with", "one after another p50", "worst", "more", "at once p50", "p99", "more", "until the last", "more", "CPU time", "provider calls"}}
	for _, driver := range []string{ourName, upstreamName} {
		for _, kind := range podKinds() {
			k, more, calls := p[driver][kind], p.more(driver, kind), "-"
			if kind == driverVolume {
				calls = fmt.Sprint(slices.Max(k.Calls))
			}
			rows = append(rows, []string{
				displayName(driver), podsWith(kind), took(k.Single.P50()), took(k.Single.Quantile(1)), signed(more[0]),
				took(k.Burst.P50()), took(k.Burst.P99()), signed(more[1]), took(k.Last.P50()), signed(more[2]), took(k.CPU.P50()), calls,
			})
		}
	}
	ratios := p.ratios()
	return append(rows, []string{"upstream / Keymount", "of what is more", "", "", ratios[0], "", "", ratios[1], "", ratios[2], ratio(p[upstreamName][driverVolume].CPU.P50(), p[ourName][driverVolume].CPU.P50()), ""})
}

// medians are those of pods that start one after another, of pods that start
// at once, and of the time until the last of those has.
func (k podStarts) medians() [3]time.Duration {
	return [3]time.Duration{k.Single.P50(), k.Burst.P50(), k.Last.P50()}
}

// more returns how much more than with an emptyDir each median is.
func (p pods) more(driver, kind string) (more [3]time.Duration) {
	all, least := p[driver][kind].medians(), p[driver][emptyDir].medians()
	for i := range all {
		more[i] = all[i] - least[i]
	}
	return more
}

// ratios returns how many times as much more it takes with upstream's volume,
// where that is no accident.
func (p pods) ratios() (ratios [3]string) {
	ours, upstream := p.more(ourName, driverVolume), p.more(upstreamName, driverVolume)
	a, b := p[ourName][emptyDir].medians(), p[upstreamName][emptyDir].medians()
	for i := range ratios {
		ratios[i] = "-"
		if min(ours[i], upstream[i]) > (a[i] - b[i]).Abs() {
			ratios[i] = ratio(upstream[i], ours[i])
		}
	}
	return ratios
}

func podsWith(kind string) string {
	return map[string]string{noVolume: "no volume", emptyDir: "an emptyDir", driverVolume: "its volume"}[kind]
}

// signed writes a difference.
func signed(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + took(-d)
	case d > 0:
		return "+" + took(d)
	default:
		return "-"
	}
}

// plot shows how pods that are created at once become ready.
func (p pods) plot() plot.Lines {
	ours, upstream := p[ourName], p[upstreamName]
	l := plot.Lines{Title: fmt.Sprintf("Pods that are ready, of %d created at once, all turns", p.atOnce()), X: "seconds since the pod was created", Y: "% of pods"}
	for _, s := range []struct {
		name string
		took stat.Samples
	}{
		{"a volume of Keymount", ours[driverVolume].Burst},
		{"a volume of upstream", upstream[driverVolume].Burst},
		{"no volume", slices.Concat(ours[noVolume].Burst, upstream[noVolume].Burst)},
		{"an emptyDir", slices.Concat(ours[emptyDir].Burst, upstream[emptyDir].Burst)},
	} {
		line := plot.Series{Name: s.name}
		for percent := 5; percent <= 100; percent += 5 {
			line.Points = append(line.Points, [2]float64{s.took.Quantile(float64(percent) / 100).Seconds(), float64(percent)})
		}
		l.Series = append(l.Series, line)
	}
	return l
}
