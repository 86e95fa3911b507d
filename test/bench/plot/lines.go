package plot

import (
	"fmt"
	"strings"
)

// A Lines is how something grows, one line for each series.
type Lines struct {
	Title  string
	X, Y   string // what the axes are
	Series []Series
}

// A Series is one line.
type Series struct {
	Name   string
	Points [][2]float64
}

const (
	margin = 70.0
	tall   = 260.0
)

// Draw returns the picture.
func (l Lines) Draw() []byte {
	p := new(page)
	var names []string
	var highX, highY float64
	for _, s := range l.Series {
		names = append(names, s.Name)
		for _, pt := range s.Points {
			highX, highY = max(highX, pt[0]), max(highY, pt[1])
		}
	}
	p.head(l.Title, names)
	xs, ys := ticks(highX), ticks(highY)
	x := func(v float64) float64 { return margin + v/xs[len(xs)-1]*(width-margin-40) }
	y := func(v float64) float64 { return top + tall - v/ys[len(ys)-1]*tall }
	for _, v := range xs {
		p.line(x(v), top, x(v), top+tall)
		p.text(x(v), top+tall+18, 11.5, faint, "middle", short(v))
	}
	for _, v := range ys {
		p.line(margin, y(v), width-40, y(v))
		p.text(margin-8, y(v)+4, 11.5, faint, "end", short(v))
	}
	p.text(width-40, top+tall+36, 12, faint, "end", l.X)
	p.text(width-40, 53, 12, faint, "end", l.Y)
	for i, s := range l.Series {
		var d strings.Builder
		verb := 'M'
		for _, pt := range s.Points {
			fmt.Fprintf(&d, "%c%.1f %.1f", verb, x(pt[0]), y(pt[1]))
			verb = 'L'
			fmt.Fprintf(p, `<circle cx="%.1f" cy="%.1f" r="3" fill="%s"/>`+"\n", x(pt[0]), y(pt[1]), palette(i))
		}
		fmt.Fprintf(p, `<path fill="none" stroke="%s" stroke-width="1.8" stroke-linejoin="round" d="%s"/>`+"\n", palette(i), d.String())
	}
	return p.picture(top + tall + 50)
}
