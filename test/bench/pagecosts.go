package main

import (
	"fmt"
	"time"
)

func (r *results) writeCosts(p *page) {
	p.printf("## Where the time goes")
	life, again := r.cost(costLife), r.cost(costRepublish)
	p.printf(`The CPU time of the driver's process, where volumes of %d files are published and unpublished one after another without a pause, or one is published again and again, each for %v. Parts are from a
CPU profile of Keymount; each sample counts for the innermost function that is not of Go's library.`, costFiles, r.Settings.Profiled)
	rows := [][]string{{"CPU time", life.Operation, "", again.Operation, ""}}
	for _, one := range life.Parts {
		rows = append(rows, []string{one.Name, took(life.of(one.Name)), percent(life.share(one.Name)), took(again.of(one.Name)), percent(again.share(one.Name))})
	}
	rows = append(rows, []string{"Keymount", took(life.CPU), "", took(again.CPU), ""}, []string{"upstream", took(life.Upstream), "", took(again.Upstream), ""})
	p.table(1, rows)
	publish, republish := r.find(opPublish, costFiles, 0, 1).Took, r.find(opRepublish, costFiles, 0, 1).Took
	unpublish := r.find(opUnpublish, costFiles, 0, 1).Took
	p.printf(`A call that comes after a pause, as all above and those of kubelet do, takes longer than one that follows another at once: processors sleep, and what they need is no longer in their caches. The same
republish takes %s after a pause and %s without; a publish and an unpublish, which work on after the reply, %s and %s.`,
		took(republish.Ours.P50()), took(again.Took.P50()), took(publish.Ours.P50()+unpublish.Ours.P50()), took(life.Took.P50()))
}

// cost returns what an operation costs, which may be nothing that is known.
func (r *results) cost(operation string) cost {
	for _, c := range r.Costs {
		if c.Operation == operation {
			return c
		}
	}
	return cost{Operation: operation}
}

// share returns how much of the time is a part.
func (c cost) share(name string) float64 {
	for _, p := range c.Parts {
		if p.Name == name {
			return p.Share
		}
	}
	return 0
}

// of returns the time of a part.
func (c cost) of(name string) time.Duration { return time.Duration(c.share(name) * float64(c.CPU)) }

func percent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }
