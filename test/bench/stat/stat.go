// Package stat sums up measurements.
package stat

import (
	"math"
	"slices"
	"time"
)

// Samples are how long the same thing took, each time it was done.
type Samples []time.Duration

// Quantile returns the smallest sample that no less than the part q of all
// samples reach. It is 0 without any.
func (s Samples) Quantile(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[max(0, int(math.Ceil(q*float64(len(sorted))))-1)]
}

// P50 returns the median.
func (s Samples) P50() time.Duration { return s.Quantile(.5) }

// P99 returns what one of a hundred samples exceeds.
func (s Samples) P99() time.Duration { return s.Quantile(.99) }

// A Point is a measurement of something that may depend on X.
type Point struct{ X, Y float64 }

// Slope returns by how much Y grows for each X, by least squares. It is 0
// where all X are the same.
func Slope(points []Point) float64 {
	var n, x, y, xx, xy float64
	for _, p := range points {
		n, x, y, xx, xy = n+1, x+p.X, y+p.Y, xx+p.X*p.X, xy+p.X*p.Y
	}
	if d := n*xx - x*x; d != 0 {
		return (n*xy - x*y) / d
	}
	return 0
}
