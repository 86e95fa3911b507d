package main

import (
	"fmt"
	"time"
)

// An aim is what was to be reached, and whether it was.
type aim struct {
	What, Measured string
	Held           bool
	Why            string // it was missed
}

// aims computes all aims from what was measured.
func (r *results) aims() []aim {
	all := r.callAims()
	all = append(all, r.steadyAims()...)
	return append(all, r.memoryAims()...)
}

// callAims are those of calls, one at a time, each of the worst number of files.
func (r *results) callAims() []aim {
	ofFloor := func(t trio) float64 { return float64(t.Ours.P50()) / float64(t.Floor.P50()) }
	faster := func(t trio) float64 { return float64(t.Upstream.P50()) / float64(t.Ours.P50()) }
	call := r.find(opRepublish, 5, 0, 1).Took.Floor.P50()
	publish := r.find(opPublish, 5, 0, 1).Took
	two := publish.Floor.P50() + call // with the call of the provider
	return []aim{
		r.aimOf("publish: at most 3 x the floor", opPublish, ofFloor, func(v float64) bool { return v <= 3 }, fmt.Sprintf(
			"the floor has one gRPC call, of %s, and a publish makes two, kubelet's and the one to the provider; a floor with both is %s for 5 files, and publish %s x as much. %s", took(call), took(two), ratio(publish.Ours.P50(), two), r.whatCosts(costLife))),
		r.aimOf("publish: at least 8 x faster than upstream", opPublish, faster, func(v float64) bool { return v >= 8 }, fmt.Sprintf(
			"for 5 files the upstream driver takes %s, an eighth of which is %s; two gRPC calls and the bare system calls alone take %s. %s", took(publish.Upstream.P50()), took(publish.Upstream.P50()/8), took(two), r.whatCosts(costLife))),
		r.aimOf("republish when the interval is over, unchanged: at least 5 x faster", opDue, faster, func(v float64) bool { return v >= 5 },
			"see the table"),
		r.aimOf("republish when nothing is due: at least 5 x faster", opRepublish, faster, func(v float64) bool { return v >= 5 }, fmt.Sprintf(
			"there is next to nothing to be saved: an empty gRPC call alone takes %s, and both drivers then look at the target once; Keymount also checks that its own mount is there, and takes the tokens that kubelet brings. %s", took(call), r.whatCosts(costRepublish))),
	}
}

// whatCosts sums up a profile for who asks why something takes as long.
func (r *results) whatCosts(operation string) string {
	c := r.cost(operation)
	return fmt.Sprintf("By a profile, %s takes %s of CPU time, of which %s is code of Keymount's own, %s system calls for mounts and files, and %s gRPC; the upstream driver takes %s",
		c.Operation, took(c.CPU), took(c.of(partOwn)), took(c.of(partFiles)), took(c.of(partSockets)+c.of(partGRPC)), took(c.Upstream))
}

// aimOf judges the number of files for which a ratio is worst.
func (r *results) aimOf(what, op string, of func(trio) float64, held func(float64) bool, why string) aim {
	a := aim{What: what, Held: true, Why: why}
	for i, files := range sizes() {
		v := of(r.find(op, files, 0, 1).Took)
		a.Held = a.Held && held(v)
		if i > 0 {
			a.Measured += ", "
		}
		a.Measured += fmt.Sprintf("%.1f x (%d files)", v, files)
	}
	return a
}

func (r *results) steadyAims() []aim {
	ours, upstream := r.Steady[0], r.Steady[1]
	coalesced := float64(steadyAccounts) * float64(time.Hour/pollInterval)
	// An interval is up to a tenth shorter, and each account may have one call more at the edge of what was watched.
	bound := coalesced/.9 + steadyAccounts/(r.Settings.Steady.Hours()*float64(r.Settings.Compressed))
	return []aim{
		{
			What: "steady state: no API writes", Held: ours.Requests.writes() == 0,
			Measured: fmt.Sprintf("%s in an hour; upstream %s", number(ours.Requests.writes()), number(upstream.Requests.writes())),
			Why:      "see which verbs in the table",
		},
		{
			What: "steady state: only the coalesced provider calls", Held: ours.Calls <= bound,
			Measured: fmt.Sprintf("%s in an hour, where one for each service account and interval is %s, and %s with jitter; upstream %s", number(ours.Calls), number(coalesced), number(bound), number(upstream.Calls)),
			Why:      "volumes of one service account are not always due together, and a result is shared only for a moment",
		},
	}
}

// memoryAims compares as many volumes as a node may have pods, and the most up to a thousand.
func (r *results) memoryAims() (all []aim) {
	ours, upstream := r.Growth[0], r.Growth[1]
	for i, s := range ours.Volumes {
		if s.N < 100 || s.N > 1000 {
			continue
		}
		whole, other := s.Memory.plus(r.Providers), upstream.Volumes[i].Memory
		all = append(all, aim{
			What: fmt.Sprintf("RSS of driver and providers with %d volumes: at most half of upstream's", s.N), Held: 2*whole.RSS <= other.RSS,
			Measured: fmt.Sprintf("%s of %s, that is %.2f", mebibytes(whole.RSS), mebibytes(other.RSS), float64(whole.RSS)/float64(other.RSS)),
			Why: fmt.Sprintf("%s of it is text of two programs, which the kernel can drop and read again, and %s is anonymous, where the upstream driver has %s and %s; its sidecars, which cannot be had here, are not counted, and Keymount's container of providers, %s, is",
				mebibytes(whole.RSS-whole.Anon), mebibytes(whole.Anon), mebibytes(other.RSS-other.Anon), mebibytes(other.Anon), mebibytes(r.Providers.RSS)),
		})
	}
	return all
}

func (r *results) writeAims(p *page) {
	p.printf("## Aims")
	rows := [][]string{{"aim", "", "measured"}}
	for _, a := range r.aims() {
		verdict := "held"
		if !a.Held {
			verdict = "**missed**"
		}
		rows = append(rows, []string{a.What, verdict, a.Measured})
	}
	p.table(len(rows[0]), rows)
	for _, a := range r.aims() {
		if !a.Held {
			fmt.Fprintf(p, "- Missed, %s: %s.\n", a.What, a.Why)
		}
	}
	p.WriteByte('\n')
}
