package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/textparse"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"
)

// A memory is a storage of Prometheus that holds what was scraped, for as long
// as it lives. It may be read once nothing is added any more.
type memory struct {
	series map[string]*series
}

// A series is one metric with its labels.
type series struct {
	labels  labels.Labels
	samples []chunks.Sample
}

// A sample is one float.
type sample struct {
	t int64
	v float64
}

func (s sample) T() int64                    { return s.t }
func (s sample) ST() int64                   { return 0 }
func (s sample) F() float64                  { return s.v }
func (sample) H() *histogram.Histogram       { return nil }
func (sample) FH() *histogram.FloatHistogram { return nil }
func (sample) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (s sample) Copy() chunks.Sample         { return s }

// add adds a sample; those of one series come in the order of time.
func (m *memory) add(ls labels.Labels, at time.Time, value float64) {
	if m.series == nil {
		m.series = make(map[string]*series)
	}
	key := ls.String()
	if m.series[key] == nil {
		m.series[key] = &series{labels: ls}
	}
	m.series[key].samples = append(m.series[key].samples, sample{at.UnixMilli(), value})
}

// scraped adds what a target exposes in the text format, with the labels of
// the target.
func (m *memory) scraped(text []byte, at time.Time, target labels.Labels) error {
	p, err := textparse.New(text, "text/plain; version=0.0.4", labels.NewSymbolTable(), textparse.ParserOptions{})
	if err != nil {
		return err
	}
	for {
		switch entry, err := p.Next(); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("what %s exposes: %w", target, err)
		case entry == textparse.EntrySeries:
			var ls labels.Labels
			p.Labels(&ls)
			_, _, value := p.Series()
			b := labels.NewBuilder(ls)
			target.Range(func(l labels.Label) { b.Set(l.Name, l.Value) })
			m.add(b.Labels(), at, value)
		}
	}
}

// Querier implements storage.Queryable.
func (m *memory) Querier(_, _ int64) (storage.Querier, error) { return querier{m}, nil }

type querier struct{ m *memory }

// Select implements storage.Querier.
func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	found := &set{}
	for _, s := range q.m.series {
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) }) {
			found.series = append(found.series, storage.NewListSeries(s.labels, s.samples))
		}
	}
	slices.SortFunc(found.series, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return found
}

// LabelValues implements storage.Querier; queries do not need it.
func (querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, errors.ErrUnsupported
}

// LabelNames implements storage.Querier; queries do not need it.
func (querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, errors.ErrUnsupported
}

// Close implements storage.Querier.
func (querier) Close() error { return nil }

// A set is a storage.SeriesSet.
type set struct {
	series []storage.Series
	next   int
}

// Next implements storage.SeriesSet.
func (s *set) Next() bool { s.next++; return s.next <= len(s.series) }

// At implements storage.SeriesSet.
func (s *set) At() storage.Series { return s.series[s.next-1] }

// Err implements storage.SeriesSet.
func (*set) Err() error { return nil }

// Warnings implements storage.SeriesSet.
func (*set) Warnings() annotations.Annotations { return nil }
