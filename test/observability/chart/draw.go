package chart

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

const (
	header = 32 // of a panel: its title
	gutter = 70 // of the vertical axis
	footer = 24 // of the horizontal axis
	line   = 18 // of the legend
)

// Draw draws a panel into a box of the page.
func (p *Page) Draw(panel Panel, b Box) {
	p.rect(b, ground, fmt.Sprintf(`rx="3" stroke="%s"`, edge))
	p.body.WriteString(`<g font-weight="500">`)
	p.Text(b.X+12, b.Y+21, 13.5, text, "start", panel.Title)
	p.body.WriteString("</g>\n")
	switch {
	case len(panel.Series) == 0:
		p.Text(b.X+b.W/2, b.Y+b.H/2+10, 14, faint, "middle", "No data")
	case panel.Kind == Value:
		p.value(panel, b)
	case panel.Kind == Heat:
		p.heat(panel, b)
	default:
		p.lines(panel, b)
	}
}

// frame draws the horizontal axis and returns where the drawing goes, above
// so many lines of legend, and the scale of time.
func (p *Page) frame(panel Panel, b Box, legend int) (Box, scale) {
	in := Box{b.X + gutter, b.Y + header + 8, b.W - gutter - 16, b.H - header - footer - 14}
	if legend > 0 {
		in.H -= float64(legend*line) + 2
	}
	x := scale{in.X, in.X + in.W, 0, panel.Span.Seconds()}
	each := roundTime(x.high / max(1, in.W/90))
	for v := 0.0; v <= x.high; v += each {
		p.line(x.at(v), in.Y, x.at(v), in.Y+in.H, grid)
		p.Text(x.at(v), in.Y+in.H+16, 11.5, faint, "middle", clock(v))
	}
	return in, x
}

// roundTime returns a round number of seconds, at least as long.
func roundTime(v float64) float64 {
	for _, round := range []float64{1, 2, 5, 10, 15, 30, 60, 120, 300} {
		if v <= round {
			return round
		}
	}
	return 600
}

func (p *Page) lines(panel Panel, b Box) {
	series := panel.Series
	if panel.Kind == Stacked {
		series = stack(series)
	}
	rows := p.legend(series, b)
	in, x := p.frame(panel, b, rows)
	y := scale{from: in.Y + in.H, to: in.Y}
	y.low, y.high = bounds(panel, series)
	m := measureOf(panel.Unit, max(y.high, -y.low))
	for _, v := range y.round(4, m.by) {
		p.line(in.X, y.at(v), in.X+in.W, y.at(v), grid)
		p.Text(in.X-8, y.at(v)+4, 11.5, faint, "end", m.format(v))
	}
	for i, s := range slices.Backward(series) { // what is stacked lies below
		for _, points := range unbroken(s.Points) {
			d := path(points, x, y)
			below := d + base(points, x, y)
			switch {
			case panel.Kind == Stacked:
				p.area(ground, 1, below)
				p.area(s.color(i), 0.35, below)
			case len(series) < 5:
				p.area(s.color(i), 0.08, below)
			}
			p.path("none", s.color(i), 1.6, d)
		}
	}
}

// unbroken splits points where some are missing between them.
func unbroken(points []Point) (parts [][]Point) {
	const most = 2.5 // of the shortest step
	shortest := math.Inf(1)
	for i := 1; i < len(points); i++ {
		shortest = min(shortest, points[i].X-points[i-1].X)
	}
	begin := 0
	for i := 1; i < len(points); i++ {
		if points[i].X-points[i-1].X > most*shortest {
			parts, begin = append(parts, points[begin:i]), i
		}
	}
	return append(parts, points[begin:])
}

// base closes the area below points.
func base(points []Point, x, y scale) string {
	zero := y.at(max(y.low, min(0, y.high)))
	return fmt.Sprintf("L%.1f %.1fL%.1f %.1f", x.at(points[len(points)-1].X), zero, x.at(points[0].X), zero)
}

func path(points []Point, x, y scale) string {
	var d strings.Builder
	verb := byte('M')
	for _, pt := range points {
		fmt.Fprintf(&d, "%c%.1f %.1f", verb, x.at(pt.X), y.at(pt.Y))
		verb = 'L'
	}
	return d.String()
}

// bounds returns the lowest and the highest value to be shown.
func bounds(panel Panel, series []Series) (low, high float64) {
	low, high = series[0].Points[0].Y, series[0].Points[0].Y
	for _, s := range series {
		for _, pt := range s.Points {
			low, high = min(low, pt.Y), max(high, pt.Y)
		}
	}
	if panel.Min != nil {
		low = *panel.Min
	}
	return min(low, 0), high
}

// stack adds to each series those before it.
func stack(series []Series) []Series {
	stacked := make([]Series, len(series))
	sum := make(map[float64]float64)
	for i, s := range series {
		stacked[i] = Series{Name: s.Name, Color: s.Color}
		for _, pt := range s.Points {
			sum[pt.X] += pt.Y
			stacked[i].Points = append(stacked[i].Points, Point{pt.X, sum[pt.X]})
		}
	}
	return stacked
}

// legend writes the names of the series at the bottom of the box, in at most
// two rows, and returns how many.
func (p *Page) legend(series []Series, b Box) (rows int) {
	const most = 2
	type entry struct {
		name, color string
		x           float64
	}
	lines := [][]entry{nil}
	x := b.X + 14
	for i, s := range series {
		width := 32 + 6.2*float64(len(s.Name))
		if x+width > b.X+b.W-50 && len(lines[len(lines)-1]) > 0 {
			if len(lines) == most {
				lines[most-1] = append(lines[most-1], entry{fmt.Sprintf("and %d", len(series)-i), "", x - 18})
				break
			}
			lines, x = append(lines, nil), b.X+14
		}
		lines[len(lines)-1] = append(lines[len(lines)-1], entry{s.Name, s.color(i), x})
		x += width
	}
	for i, entries := range lines {
		y := b.Y + b.H - 10 - float64((len(lines)-1-i)*line)
		for _, e := range entries {
			if e.color != "" {
				p.rect(Box{e.x, y - 5, 14, 4}, e.color, `rx="2"`)
			}
			p.Text(e.x+20, y, 12, text, "start", e.name)
		}
	}
	return len(lines)
}

// value writes the last value, with its course below.
func (p *Page) value(panel Panel, b Box) {
	points := panel.Series[0].Points
	last := points[len(points)-1].Y
	color := palette(2)
	for _, s := range panel.Steps {
		if last >= s.From {
			color = cmp.Or(named(s.Color), color)
		}
	}
	in := Box{b.X + 1, b.Y + b.H*0.6, b.W - 2, b.H*0.4 - 1}
	x := scale{in.X, in.X + in.W, points[0].X, points[len(points)-1].X}
	y := scale{from: in.Y + in.H, to: in.Y}
	y.low, y.high = bounds(panel, panel.Series)
	if y.high == y.low {
		y.high = y.low + 1
	}
	d := path(points, x, y)
	p.area(color, 0.15, d+base(points, x, y))
	p.path("none", color, 1.5, d)
	p.body.WriteString(`<g font-weight="600">`)
	p.Text(b.X+b.W/2, b.Y+header+46, 38, color, "middle", format(last, panel.Unit))
	p.body.WriteString("</g>\n")
}
