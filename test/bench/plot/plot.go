// Package plot draws bars and lines as SVG, in the colors of the dashboard of
// docs/observability.svg. Nothing of it needs a browser or a font.
package plot

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
	"strings"
)

// The colors of the dashboard.
const (
	canvas = "#111217"
	grid   = "#2a2e34"
	text   = "#d5d8df"
	faint  = "#8e939d"
)

// palette is the colors of series, in their order.
func palette(i int) string {
	colors := []string{"#73bf69", "#ff9830", "#8e939d", "#5794f2"}
	return colors[i%len(colors)]
}

// width of every picture.
const width = 880.0

// A page is a picture that is being drawn.
type page struct{ bytes.Buffer }

func (p *page) text(x, y, size float64, color, anchor, line string) {
	var escaped strings.Builder
	_ = xml.EscapeText(&escaped, []byte(line)) // into memory: cannot fail
	fmt.Fprintf(p, `<text x="%.1f" y="%.1f" font-size="%g" fill="%s" text-anchor="%s">%s</text>`+"\n", x, y, size, color, anchor, escaped.String())
}

func (p *page) rect(x, y, w, h float64, color string) {
	fmt.Fprintf(p, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" rx="2" fill="%s"/>`+"\n", x, y, w, h, color)
}

func (p *page) line(x1, y1, x2, y2 float64) {
	fmt.Fprintf(p, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, grid)
}

// head writes the title and the names of the series.
func (p *page) head(title string, series []string) {
	p.text(20, 30, 16, text, "start", title)
	x := 20.0
	for i, name := range series {
		p.rect(x, 46, 14, 6, palette(i))
		p.text(x+20, 53, 12.5, text, "start", name)
		x += 40 + 7*float64(len(name))
	}
}

func (p *page) picture(height float64) []byte {
	var out bytes.Buffer
	fmt.Fprintf(&out, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %g %g" width="%[1]g" height="%[2]g" font-family="Inter, 'Helvetica Neue', Arial, sans-serif">`+"\n", width, height)
	fmt.Fprintf(&out, `<rect width="%g" height="%g" fill="%s"/>`+"\n", width, height, canvas)
	out.Write(p.Bytes())
	out.WriteString("</svg>\n")
	return out.Bytes()
}

// ticks returns about four round numbers up to the first that is not below high.
func ticks(high float64) (all []float64) {
	if high <= 0 {
		high = 1
	}
	power := math.Pow(10, math.Floor(math.Log10(high/4)))
	step := 10 * power
	for _, m := range []float64{1, 2, 2.5, 5} {
		if high/4 <= m*power*(1+1e-9) {
			step = m * power
			break
		}
	}
	for i := 0; ; i++ {
		all = append(all, float64(i)*step)
		if float64(i)*step >= high*(1-1e-9) {
			return all
		}
	}
}

// short writes three digits.
func short(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100 || a == math.Trunc(a):
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}
