package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/keymount/keymount/pkg/provider"
)

// buckets are those of durations, in seconds: from what memory takes to what
// kubelet waits for.
func buckets() []float64 {
	return []float64{.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30, 60, 120}
}

// fetches count what providers are asked for.
type fetches struct {
	wanted *prometheus.CounterVec
	calls  *prometheus.HistogramVec
}

func newFetches() fetches {
	return fetches{
		wanted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keymount_fetches_total", Help: "Fetches that volumes wanted, whether or not one answer served several of them.",
		}, []string{"provider"}),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keymount_provider_call_duration_seconds", Help: "Time that providers took to answer, by what they answered.", Buckets: buckets(),
		}, []string{"provider", "result"}),
	}
}

// Wanted is the decorator that counts what volumes want. It is meant to be
// outside of those which share fetches.
func (m *Metrics) Wanted(name string, next provider.Provider) provider.Provider {
	return &wanted{next, m, name}
}

type wanted struct {
	provider.Provider
	metrics *Metrics
	name    string
}

// Fetch implements provider.Provider.
func (w *wanted) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	bundle, err := w.Provider.Fetch(ctx, req)
	w.metrics.fetches.wanted.WithLabelValues(w.metrics.providers.label(w.name, err == nil)).Inc()
	return bundle, err
}

// Unwrap returns the provider that is asked.
func (w *wanted) Unwrap() provider.Provider { return w.Provider }

// Called is the decorator that measures what providers are asked. It is meant
// to be inside of those which share fetches.
func (m *Metrics) Called(name string, next provider.Provider) provider.Provider {
	return &called{next, m, name}
}

type called struct {
	provider.Provider
	metrics *Metrics
	name    string
}

// Fetch implements provider.Provider.
func (c *called) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	began := time.Now()
	bundle, err := c.Provider.Fetch(ctx, req)
	result := "OK"
	switch {
	case err != nil:
		result = provider.Reason(err)
	case bundle != nil && bundle.Unchanged:
		result = "Unchanged"
	}
	c.metrics.fetches.calls.WithLabelValues(c.metrics.providers.label(c.name, err == nil), result).Observe(time.Since(began).Seconds())
	return bundle, err
}

// Unwrap returns the provider that is called.
func (c *called) Unwrap() provider.Provider { return c.Provider }
