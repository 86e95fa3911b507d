package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTicksAreRoundAndReachTheTop(t *testing.T) {
	for _, c := range []struct {
		high float64
		want []float64
	}{
		{0, []float64{0, .25, .5, .75, 1}}, {93, []float64{0, 25, 50, 75, 100}}, {100, []float64{0, 25, 50, 75, 100}},
		{2000, []float64{0, 500, 1000, 1500, 2000}}, {7.1, []float64{0, 2, 4, 6, 8}},
	} {
		if diff := cmp.Diff(c.want, ticks(c.high)); diff != "" {
			t.Errorf("ticks(%v) (-want +got):\n%s", c.high, diff)
		}
	}
}

func TestNumbersAreShort(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 4: "4", .254: "0.25", 7.128: "7.13", 12.34: "12.3", 123.4: "123"} {
		if got := short(v); got != want {
			t.Errorf("short(%v) = %q, want %q", v, got, want)
		}
	}
}

func TestBarsShowEveryValueThatThereIs(t *testing.T) {
	b := Bars{Title: "<title>", Unit: "ms", Series: []string{"a", "b"}, Groups: []Group{{"first", []float64{1.5, 3}}, {"second", []float64{2.25, 0}}}}
	picture := elements(t, b.Draw())
	for _, want := range []string{"<title>", "a", "b", "first", "second", "1.50", "3", "2.25"} {
		if !picture.texts[want] {
			t.Errorf("the picture has no text %q", want)
		}
	}
	if got, want := picture.count["rect"], 1+2+3; got != want { // ground, legend, bars
		t.Errorf("the picture has %d rectangles, want %d", got, want)
	}
}

func TestLinesGoThroughEveryPoint(t *testing.T) {
	l := Lines{Title: "t", X: "volumes", Y: "ms", Series: []Series{{"a", [][2]float64{{0, 1}, {10, 2}}}, {"b", [][2]float64{{5, 3}}}, {"none", nil}}}
	picture := elements(t, l.Draw())
	if picture.count["circle"] != 3 || picture.count["path"] != 3 || !picture.texts["volumes"] || !picture.texts["ms"] {
		t.Errorf("the picture has %v and %v", picture.count, picture.texts)
	}
}

type found struct {
	texts map[string]bool
	count map[string]int
}

// elements returns what a picture, which must be XML, consists of.
func elements(t *testing.T, picture []byte) found {
	t.Helper()
	f := found{map[string]bool{}, map[string]int{}}
	for d := xml.NewDecoder(strings.NewReader(string(picture))); ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return f
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.CharData:
			f.texts[string(token)] = true
		case xml.StartElement:
			f.count[token.Name.Local]++
		}
	}
}
