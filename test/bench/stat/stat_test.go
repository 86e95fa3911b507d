package stat

import (
	"math"
	"testing"
	"time"
)

func TestQuantilesAreSamples(t *testing.T) {
	var hundred Samples
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i)) // 100 to 1
	}
	for _, c := range []struct {
		samples Samples
		q       float64
		want    time.Duration
	}{
		{nil, .5, 0}, {Samples{7}, 0, 7}, {Samples{7}, .99, 7}, {Samples{3, 1, 2}, .5, 2}, {Samples{4, 1, 3, 2}, .5, 2},
		{hundred, 0, 1}, {hundred, .5, 50}, {hundred, .99, 99}, {hundred, 1, 100},
	} {
		if got := c.samples.Quantile(c.q); got != c.want {
			t.Errorf("%v.Quantile(%v) = %d, want %d", c.samples, c.q, got, c.want)
		}
	}
	if hundred[0] != 100 {
		t.Error("Quantile changes the order of the samples")
	}
}

func TestSlopesAreFitted(t *testing.T) {
	for _, c := range []struct {
		points []Point
		want   float64
	}{
		{nil, 0}, {[]Point{{1, 5}}, 0}, {[]Point{{2, 5}, {2, 9}}, 0},
		{[]Point{{0, 1}, {1, 3}, {2, 5}}, 2},
		{[]Point{{0, 1}, {1, -1}, {2, 1}, {3, -1}}, -.4}, // around no line
	} {
		if got := Slope(c.points); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("Slope(%v) = %v, want %v", c.points, got, c.want)
		}
	}
}
