package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// took writes a duration with three digits or so.
func took(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", d.Seconds()*1e3)
	default:
		return fmt.Sprintf("%.2f s", d.Seconds())
	}
}

// ratio writes a / b.
func ratio(a, b time.Duration) string {
	if b == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f", float64(a)/float64(b))
}

func mebibytes(n int64) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

func number(v float64) string { return fmt.Sprintf("%.0f", v) }

func (r requests) String() string {
	var all []string
	for _, verb := range slices.Sorted(maps.Keys(r)) {
		all = append(all, verb+" "+number(r[verb]))
	}
	if len(all) == 0 {
		return "none"
	}
	return strings.Join(all, ", ")
}
