package main

import (
	"fmt"

	"github.com/keymount/keymount/test/bench/plot"
)

// plots returns the pictures of the page by the names of their files.
func (r *results) plots() map[string][]byte {
	all := map[string][]byte{
		"performance-calls.svg":          r.plotCalls().Draw(),
		"performance-burst.svg":          r.plotBursts().Draw(),
		"performance-growth-publish.svg": r.plotGrowth("Publish, median, by the number of live volumes", "ms", func(s stage) float64 { return s.Publish.P50().Seconds() * 1e3 }).Draw(),
		"performance-growth-memory.svg":  r.plotGrowth("Memory of the driver, by the number of live volumes", "MiB of RSS", func(s stage) float64 { return float64(s.Memory.RSS) / (1 << 20) }).Draw(),
	}
	if r.Pods != nil {
		all[podsPlot] = r.Pods.plot().Draw()
	}
	return all
}

func (r *results) plotCalls() plot.Bars {
	b := plot.Bars{Title: "Median of each call, 5 files, one at a time", Unit: "ms", Series: []string{"Keymount", "upstream", "floor"}}
	for _, op := range []string{opFirst, opPublish, opRepublish, opDue, opRotate, opUnpublish} {
		t := r.find(op, 5, 0, 1).Took
		b.Groups = append(b.Groups, plot.Group{Name: op, Values: []float64{t.Ours.P50().Seconds() * 1e3, t.Upstream.P50().Seconds() * 1e3, t.Floor.P50().Seconds() * 1e3}})
	}
	return b
}

func (r *results) plotBursts() plot.Bars {
	b := plot.Bars{Title: fmt.Sprintf("%d volumes at once, until the last is published", burstVolumes), Unit: "s", Series: []string{"Keymount", "upstream"}}
	for _, burst := range r.Bursts {
		name := fmt.Sprintf("%d service accounts", burst.Accounts)
		b.Groups = append(b.Groups, plot.Group{Name: name, Values: []float64{burst.Ours.P50().Seconds(), burst.Upstream.P50().Seconds()}})
	}
	return b
}

func (r *results) plotGrowth(title, unit string, of func(stage) float64) plot.Lines {
	l := plot.Lines{Title: title, X: "live volumes", Y: unit}
	for _, g := range r.Growth {
		s := plot.Series{Name: displayName(g.Driver)}
		for _, stage := range g.Volumes {
			s.Points = append(s.Points, [2]float64{float64(stage.N), of(stage)})
		}
		l.Series = append(l.Series, s)
	}
	return l
}

func displayName(driver string) string {
	if driver == ourName {
		return "Keymount"
	}
	return driver
}
