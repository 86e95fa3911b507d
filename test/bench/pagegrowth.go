package main

import "fmt"

func (r *results) writeMemory(p *page) {
	p.printf("## Memory")
	p.printf(`RSS of each driver's process, PSS where the kernel tells, and how much of RSS is anonymous and not the text of the program, which the kernel can drop and read again, with volumes of 5 files. "cgroup" is all that the
kernel counts for the process, where it does: also the files in the volumes, and what their mounts need. "Classes" are in the cluster, and no pod uses them. Keymount's pod has a second container with its own providers; idle, it
has %s RSS (%s anonymous). It is counted in "with providers", though nothing was asked of it; the upstream driver's two sidecars and its providers are not counted.`,
		mebibytes(r.Providers.RSS), mebibytes(r.Providers.Anon))
	rows := [][]string{{"", "Keymount RSS", "PSS", "anonymous", "cgroup", "with providers", "upstream RSS", "PSS", "anonymous", "cgroup", "upstream / Keymount with providers"}}
	add := func(name string, ours, upstream memory) {
		all := ours.plus(r.Providers)
		rows = append(rows, []string{name, mebibytes(ours.RSS), mebibytes(ours.PSS), mebibytes(ours.Anon), mebibytes(ours.Cgroup), mebibytes(all.RSS), mebibytes(upstream.RSS), mebibytes(upstream.PSS), mebibytes(upstream.Anon), mebibytes(upstream.Cgroup), fmt.Sprintf("%.1f", float64(upstream.RSS)/float64(all.RSS))})
	}
	ours, upstream := r.Growth[0], r.Growth[1]
	few, many := r.Settings.Classes[0], r.Settings.Classes[len(r.Settings.Classes)-1]
	add(fmt.Sprintf("idle, %d classes", few), ours.Empty, upstream.Empty)
	for i, s := range ours.Volumes {
		add(fmt.Sprintf("%d volumes, %d classes", s.N, few), s.Memory, upstream.Volumes[i].Memory)
	}
	most := ours.Volumes[len(ours.Volumes)-1].N
	for i, s := range ours.Classes {
		add(fmt.Sprintf("%d volumes, %d classes", most, s.N), s.Memory, upstream.Classes[i].Memory)
	}
	add(fmt.Sprintf("idle, %d classes", many), ours.Crowded, upstream.Crowded)
	p.table(1, rows)
}

func (r *results) writeGrowth(p *page) {
	p.printf("## Growth")
	p.printf("![Publish with more and more volumes](performance-growth-publish.svg)")
	p.printf("![Memory with more and more volumes](performance-growth-memory.svg)")
	p.printf("Volumes of both drivers are published in turn until there are %d of each, and then classes are added to the cluster. Each publish is the median of the last %d. Slopes are fitted by least squares.",
		r.Settings.Volumes[len(r.Settings.Volumes)-1], lookback)
	rows := [][]string{{"", "Keymount publish p50", "upstream publish p50", "Keymount RSS", "upstream RSS"}}
	add := func(what string, ours, upstream []stage) {
		for i, s := range ours {
			u := upstream[i]
			rows = append(rows, []string{fmt.Sprintf("%d %s", s.N, what), took(s.Publish.P50()), took(u.Publish.P50()), mebibytes(s.Memory.RSS), mebibytes(u.Memory.RSS)})
		}
	}
	ours, upstream := r.Growth[0], r.Growth[1]
	add("volumes", ours.Volumes, upstream.Volumes)
	add("classes", ours.Classes, upstream.Classes)
	p.table(1, rows)
	p.table(1, [][]string{
		{"slope", "Keymount", "upstream"},
		{"publish p50, for 1000 volumes more", fmt.Sprintf("%.0f µs", ours.PublishSlope), fmt.Sprintf("%.0f µs", upstream.PublishSlope)}, // ns x 1000
		{"RSS, for each volume more", kibibytes(ours.RSSSlope), kibibytes(upstream.RSSSlope)},
		{"RSS, for each class more", kibibytes(ours.RSSOfClassSlope), kibibytes(upstream.RSSOfClassSlope)},
	})
}

func kibibytes(v float64) string { return fmt.Sprintf("%.1f KiB", v/1024) }
