package chart

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestValuesAreWrittenAsAPersonReadsThem(t *testing.T) {
	for _, c := range []struct {
		value float64
		unit  string
		want  string
	}{
		{0, "s", "0 s"}, {0.0005, "s", "500 µs"}, {0.15, "s", "150 ms"}, {42.25, "s", "42.2 s"}, {-4, "s", "-4 s"}, {1800, "s", "30 min"}, {86400, "s", "24 h"},
		{0.136, "percentunit", "13.6 %"}, {36 << 20, "bytes", "36 MiB"}, {120, "ops", "120/s"}, {0.5, "short", "0.5"}, {1234, "short", "1234"},
	} {
		if got := format(c.value, c.unit); got != c.want {
			t.Errorf("format(%v, %q) = %q, want %q", c.value, c.unit, got, c.want)
		}
	}
}

func TestTicksAreRound(t *testing.T) {
	for _, c := range []struct {
		low, high, by float64
		want          []float64
	}{
		{0, 93, 1, []float64{0, 25, 50, 75, 100}},
		{0, 0, 1, []float64{0, 0.25, 0.5, 0.75, 1}},
		{-4, 11, 1, []float64{-5, 0, 5, 10, 15}},
		{0, 35 << 20, 1 << 20, []float64{0, 10 << 20, 20 << 20, 30 << 20, 40 << 20}},
	} {
		s := scale{low: c.low, high: c.high}
		if diff := cmp.Diff(c.want, s.round(4, c.by)); diff != "" {
			t.Errorf("ticks from %v to %v (-want +got):\n%s", c.low, c.high, diff)
		}
	}
}

func TestALineIsBrokenWhereValuesAreMissing(t *testing.T) {
	points := []Point{{0, 1}, {1, 1}, {2, 1}, {6, 2}, {7, 2}}
	if diff := cmp.Diff([][]Point{points[:3], points[3:]}, unbroken(points)); diff != "" {
		t.Errorf("parts (-want +got):\n%s", diff)
	}
}

func TestStackedSeriesAddUp(t *testing.T) {
	got := stack([]Series{{Name: "a", Points: []Point{{0, 1}, {1, 2}}}, {Name: "b", Points: []Point{{1, 3}}}})
	want := []Series{{Name: "a", Points: []Point{{0, 1}, {1, 2}}}, {Name: "b", Points: []Point{{1, 5}}}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("series (-want +got):\n%s", diff)
	}
}

func TestEveryKindIsAPicture(t *testing.T) {
	hostile := Series{Name: `<&">`, Points: []Point{{0, 0}, {30, 7}, {60, 3}}}
	for kind, want := range map[Kind]string{Lines: `<&">`, Stacked: `<&">`, Heat: "≤ 1 s", Value: "3"} {
		p := new(Page)
		s := hostile
		if kind == Heat {
			s.Name = "1"
		}
		p.Draw(Panel{Kind: kind, Title: `a <b>`, Span: time.Minute, Series: []Series{s}, Steps: []Step{{math.Inf(-1), "green"}}}, Box{0, 0, 400, 200})
		p.Draw(Panel{Kind: kind, Title: "empty", Span: time.Minute}, Box{0, 200, 400, 200})
		texts := textsOf(t, p.Bytes(400, 400))
		for _, text := range []string{"a <b>", "No data", want} {
			if !strings.Contains(texts, "\n"+text+"\n") {
				t.Errorf("kind %v: the picture has no %q: %s", kind, text, texts)
			}
		}
	}
}

// textsOf returns what is written in the picture, which must be XML.
func textsOf(t *testing.T, picture []byte) string {
	t.Helper()
	texts := "\n"
	for d := xml.NewDecoder(strings.NewReader(string(picture))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return texts
		}
		if err != nil {
			t.Fatal(err)
		}
		if text, ok := token.(xml.CharData); ok {
			texts += string(text) + "\n"
		}
	}
}
