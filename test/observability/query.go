package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"

	"github.com/keymount/keymount/test/observability/chart"
)

func newParser() parser.Parser { return parser.NewParser(parser.Options{}) }

func newEngine(lookback time.Duration) *promql.Engine {
	return promql.NewEngine(promql.EngineOpts{MaxSamples: 50e6, Timeout: time.Minute, LookbackDelta: lookback, Parser: newParser()})
}

// A recording is what was scraped, and when.
type recording struct {
	memory
	began, ended time.Time
	every        time.Duration
}

// points is how many values of each series are drawn.
const points = 120

// answer returns what the panel shows: for a heat map a series for each
// bucket, in their order, with what is in that bucket alone.
func (r *recording) answer(ctx context.Context, p *panel) ([]chart.Series, error) {
	var all []chart.Series
	for _, t := range p.Targets {
		found, err := r.query(ctx, t)
		if err != nil {
			return nil, fmt.Errorf("panel %q: %w", p.Title, err)
		}
		all = append(all, found...)
	}
	if p.Type == "heatmap" {
		buckets(all)
	}
	for i := range all {
		all[i].Color = p.color(all[i].Name)
	}
	return all, nil
}

func (r *recording) query(ctx context.Context, t target) ([]chart.Series, error) {
	engine := newEngine(5 * r.every)
	defer engine.Close()
	step := r.ended.Sub(r.began) / points
	q, err := engine.NewRangeQuery(ctx, r, nil, t.expression(r.every), r.began, r.ended, step)
	if err != nil {
		return nil, err
	}
	defer q.Close()
	matrix, err := q.Exec(ctx).Matrix()
	if err != nil {
		return nil, err
	}
	var all []chart.Series
	for _, s := range matrix {
		line := chart.Series{Name: legend(t.Legend, s.Metric)}
		for _, f := range s.Floats {
			if !math.IsNaN(f.F) && !math.IsInf(f.F, 0) {
				line.Points = append(line.Points, chart.Point{X: time.UnixMilli(f.T).Sub(r.began).Seconds(), Y: f.F})
			}
		}
		if len(line.Points) > 0 {
			all = append(all, line)
		}
	}
	return all, nil
}

var placeholder = regexp.MustCompile(`{{ *(\w+) *}}`)

// legend returns the name of a series, as Grafana writes it.
func legend(format string, ls labels.Labels) string {
	return placeholder.ReplaceAllStringFunc(format, func(s string) string {
		return cmp.Or(ls.Get(placeholder.FindStringSubmatch(s)[1]), "(none)")
	})
}

// buckets sorts the cumulative buckets of a histogram and subtracts from each
// the one below.
func buckets(all []chart.Series) {
	bound := func(s chart.Series) float64 {
		v, _ := strconv.ParseFloat(s.Name, 64) // "+Inf" is a float
		return v
	}
	slices.SortFunc(all, func(a, b chart.Series) int { return cmp.Compare(bound(a), bound(b)) })
	for i := len(all) - 1; i > 0; i-- {
		below := make(map[float64]float64)
		for _, p := range all[i-1].Points {
			below[p.X] = p.Y
		}
		for j := range all[i].Points {
			all[i].Points[j].Y = max(0, all[i].Points[j].Y-below[all[i].Points[j].X])
		}
	}
}
