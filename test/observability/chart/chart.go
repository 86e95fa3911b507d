// Package chart draws panels of a dashboard as SVG: lines, areas, heat maps and
// single values, with titles, axes, grids and legends. It knows no Grafana and
// no Prometheus, and nothing of it needs a browser or a font.
package chart

import "time"

// A Series is one line, with a name for the legend.
type Series struct {
	Name   string
	Color  string // a name such as "red", or empty for the next of the palette
	Points []Point
}

// A Point is a value at so many seconds after the beginning.
type Point struct{ X, Y float64 }

// A Kind says how a panel is drawn.
type Kind int

// The kinds of panels.
const (
	Lines Kind = iota
	Stacked
	Heat
	Value
)

// A Panel is one drawing.
type Panel struct {
	Kind   Kind
	Title  string
	Unit   string   // as Grafana calls it: s, ops, percentunit, bytes, short
	Min    *float64 // of the axis; nil: of the values
	Span   time.Duration
	Series []Series
	Steps  []Step // of Value: its color
}

// A Step is a color from a value on.
type Step struct {
	From  float64
	Color string
}

// A Box is where a panel is, in pixels.
type Box struct{ X, Y, W, H float64 }
