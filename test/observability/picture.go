package main

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/keymount/keymount/test/observability/chart"
)

const (
	column = 64.0 // width of one of Grafana's
	height = 33.0 // of one of its rows
	margin = 16.0
	gap    = 8.0
	top    = 66.0 // of the title
)

// draw draws the dashboard with what was recorded.
func draw(ctx context.Context, d *dashboard, r *recording, caption string) ([]byte, error) {
	page, bottom := new(chart.Page), 0.0
	page.Title(margin, 32, d.Title)
	page.Caption(margin, 54, caption)
	for _, p := range d.Panels {
		b := chart.Box{X: margin + float64(p.Place.X)*column, Y: top + float64(p.Place.Y)*height, W: float64(p.Place.W)*column - gap, H: float64(p.Place.H)*height - gap}
		bottom = max(bottom, b.Y+b.H)
		if p.Type == "row" {
			page.Heading(b.X+2, b.Y+20, p.Title)
			continue
		}
		series, err := r.answer(ctx, &p)
		if err != nil {
			return nil, err
		}
		kind, err := p.kind()
		if err != nil {
			return nil, err
		}
		page.Draw(chart.Panel{
			Kind: kind, Title: p.Title, Unit: p.Field.Defaults.Unit, Min: p.Field.Defaults.Min, Span: r.ended.Sub(r.began), Series: series, Steps: p.steps(),
		}, b)
	}
	return page.Bytes(24*column+2*margin-gap, bottom+margin), nil
}

// kind is how the panel is drawn.
func (p *panel) kind() (chart.Kind, error) {
	switch {
	case p.Type == "stat":
		return chart.Value, nil
	case p.Type == "heatmap":
		return chart.Heat, nil
	case p.Type == "timeseries" && p.Field.Defaults.Custom.Stacking.Mode == "normal":
		return chart.Stacked, nil
	case p.Type == "timeseries":
		return chart.Lines, nil
	default:
		return 0, fmt.Errorf("panel %q is of the type %q, which cannot be drawn: it knows row, stat, timeseries and heatmap", p.Title, p.Type)
	}
}

func (p *panel) steps() (steps []chart.Step) {
	for _, s := range p.Field.Defaults.Thresholds.Steps {
		from := math.Inf(-1)
		if s.Value != nil {
			from = *s.Value
		}
		steps = append(steps, chart.Step{From: from, Color: s.Color})
	}
	return steps
}

// explain says what the picture shows.
func explain(nodes int, length, every time.Duration) string {
	return fmt.Sprintf("Drivers of %d nodes with the file provider and two stores in memory, for %v: scraped each %v, rates over %v. One store fails for a while, one is slow, and the audit log is away.",
		nodes, length, every, window*every)
}
