package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
)

// A report tells what happens, a line for each step.
type report struct {
	out   io.Writer
	steps int
}

func (r *report) step(what, format string, args ...any) {
	r.steps++
	fmt.Fprintf(r.out, "%2d. %-12s %s\n", r.steps, what, fmt.Sprintf(format, args...))
}

// volume shows what a pod finds in a volume, and never what is in a file.
func (r *report) volume(s *scene, v *tryVolume) error {
	files, err := v.files()
	if err != nil {
		return err
	}
	fmt.Fprintf(r.out, "    %s\n", v.target)
	table := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "    FILE\tSIZE\tMODE")
	for _, f := range files {
		fmt.Fprintf(table, "    %s\t%d\t%#o\n", f.path, f.size, f.mode)
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(table, "    OBJECT\tVERSION")
	versions := s.versions(v)
	for _, id := range slices.Sorted(maps.Keys(versions)) {
		fmt.Fprintf(table, "    %s\t%.12s\n", id, versions[id])
	}
	return table.Flush()
}
