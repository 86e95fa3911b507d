package chart

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// A scale maps values to pixels.
type scale struct{ from, to, low, high float64 }

func (s scale) at(v float64) float64 {
	return s.from + (v-s.low)/(s.high-s.low)*(s.to-s.from)
}

// round widens the scale to round numbers of a measure, and returns those that
// lie within.
func (s *scale) round(want int, by float64) (ticks []float64) {
	if s.high <= s.low {
		s.high = s.low + by
	}
	width := roundUp((s.high-s.low)/float64(want)/by) * by
	s.low, s.high = math.Floor(s.low/width)*width, math.Ceil(s.high/width)*width
	for i := range int(math.Round((s.high-s.low)/width)) + 1 {
		ticks = append(ticks, s.low+float64(i)*width)
	}
	return ticks
}

// roundUp returns the next of 1, 2, 2.5 and 5 times a power of ten.
func roundUp(v float64) float64 {
	power := math.Pow(10, math.Floor(math.Log10(v)))
	for _, m := range []float64{1, 2, 2.5, 5} {
		if v <= m*power*(1+1e-9) {
			return m * power
		}
	}
	return 10 * power
}

// A measure is how values of a unit are written that are not larger than some
// value: divided, and with a suffix.
type measure struct {
	by     float64
	suffix string
}

// measureOf returns the measure for values of the unit up to high.
func measureOf(unit string, high float64) measure {
	switch {
	case unit == "ops":
		return measure{1, "/s"}
	case unit == "percentunit":
		return measure{0.01, " %"}
	case unit == "bytes":
		return measure{1 << 20, " MiB"}
	case unit != "s":
		return measure{1, ""}
	case high > 0 && high < 1e-3:
		return measure{1e-6, " µs"}
	case high > 0 && high < 1:
		return measure{1e-3, " ms"}
	case high < 180:
		return measure{1, " s"}
	case high < 3*3600:
		return measure{60, " min"}
	default:
		return measure{3600, " h"}
	}
}

func (m measure) format(v float64) string { return short(v/m.by) + m.suffix }

// format writes one value of a unit.
func format(v float64, unit string) string { return measureOf(unit, math.Abs(v)).format(v) }

// short writes three digits or so.
func short(v float64) string {
	digits := 0
	for a := math.Abs(v); a < 100 && digits < 3 && a > 0; a *= 10 {
		digits++
	}
	out := strconv.FormatFloat(v, 'f', max(0, digits), 64)
	if strings.Contains(out, ".") {
		out = strings.TrimRight(strings.TrimRight(out, "0"), ".")
	}
	return out
}

// clock writes seconds since the beginning.
func clock(v float64) string { return fmt.Sprintf("%d:%02d", int(v)/60, int(v)%60) }
