// Package metrics counts what a driver does, for Prometheus. Names and labels
// are those of the upstream driver where that has them, so that dashboards go
// on working. No label grows with pods, classes or objects, and nobody who
// writes classes can make one grow.
package metrics

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// osType is a label that the upstream driver, which also runs on Windows, has
// on each of its metrics.
const osType = "linux"

// Metrics are those of one driver. It is safe for concurrent use.
type Metrics struct {
	registry  *prometheus.Registry
	volumes   volume.Store
	providers names

	publishes, publishErrors     *prometheus.CounterVec
	unpublishes, unpublishErrors *prometheus.CounterVec
	rotations, rotationErrors    *prometheus.CounterVec
	rotationDuration             *prometheus.HistogramVec
	warnings                     *prometheus.CounterVec
	publishDuration              *prometheus.HistogramVec
	fetches                      fetches
}

// New returns the metrics of a driver of that version, which keeps its volumes
// in the store.
func New(volumes volume.Store, version string) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append(labels, "os_type"))
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(), volumes: volumes,
		publishes:       counter("node_publish_total", "Volumes that were published.", "provider"),
		publishErrors:   counter("node_publish_error_total", "Attempts to publish a volume that failed.", "provider", "error_type"),
		unpublishes:     counter("node_unpublish_total", "Volumes that were unpublished."),
		unpublishErrors: counter("node_unpublish_error_total", "Attempts to unpublish a volume that failed."),
		rotations:       counter("rotation_reconcile_total", "Refreshes of published volumes that succeeded; rotated says whether the content changed.", "provider", "rotated"),
		rotationErrors:  counter("rotation_reconcile_error_total", "Refreshes of published volumes that failed; the volumes keep what they held.", "provider", "error_type", "rotated"),
		rotationDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "rotation_reconcile_duration_sec", Help: "Time that refreshes of published volumes took, in seconds.",
			Buckets: buckets(),
		}, []string{"os_type"}),
		publishDuration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "keymount_publish_duration_seconds", Help: "Time that first publishes of volumes took, by how they ended.", Buckets: buckets(),
		}, []string{"provider", "result"}),
		fetches: newFetches(),
		warnings: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "keymount_warnings_total", Help: "Publishes and refreshes that succeeded, with a warning of that reason.",
		}, []string{"provider", "reason"}),
	}
	m.registry.MustRegister(
		m.publishes, m.publishErrors, m.unpublishes, m.unpublishErrors, m.rotations, m.rotationErrors, m.rotationDuration, m.warnings,
		m.publishDuration, m.fetches.wanted, m.fetches.calls, m,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "keymount_build_info", Help: "Always 1; the label says which build this is.",
			ConstLabels: prometheus.Labels{"version": version},
		}, func() float64 { return 1 }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	return m
}

// Audit adds what fails of the audit log: writes, and events that are not in it.
// It may be called once.
func (m *Metrics) Audit(failures func() (writes, lost int64)) {
	m.registry.MustRegister(
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "keymount_audit_write_errors_total", Help: "Writes to the audit log that failed."},
			func() float64 { writes, _ := failures(); return float64(writes) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "keymount_audit_lost_events", Help: "Events that are not in the audit log, and not told of there yet."},
			func() float64 { _, lost := failures(); return float64(lost) }),
	)
}

// maxScrapes bounds the work that those who reach the port can ask for.
const maxScrapes = 4

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.InstrumentMetricHandler(m.registry, promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: maxScrapes}))
}

var (
	volumesDesc = prometheus.NewDesc("keymount_volumes", "Published volumes, by whether they are as fresh as they should be.", []string{"state"}, nil)
	oldestDesc  = prometheus.NewDesc("keymount_oldest_stale_seconds", "For how long the volume is stale that has been for longest; 0 if none is.", nil, nil)
	lagDesc     = prometheus.NewDesc("keymount_rotation_lag_seconds", "For how long the refresh is due that has been for longest; 0 if none is.", nil, nil)
	leaseDesc   = prometheus.NewDesc("keymount_next_lease_expiry_seconds", "Time until the lease ends that ends next; absent if nothing is leased.", []string{"provider"}, nil)
	expiryDesc  = prometheus.NewDesc("keymount_next_secret_expiry_seconds", "Time until the certificate, key or secret expires that expires next; absent if the store says of none.", []string{"provider"}, nil)
)

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- volumesDesc
	ch <- oldestDesc
	ch <- lagDesc
	ch <- leaseDesc
	ch <- expiryDesc
}

// Collect implements prometheus.Collector: it looks at the volumes when it is
// asked.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	fresh, stale, oldest, lag := 0, 0, time.Duration(0), time.Duration(0)
	leases, expiries := make(map[string]time.Duration), make(map[string]time.Duration)
	for _, rec := range m.volumes.List() {
		if !rec.Due.IsZero() {
			lag = max(lag, time.Since(rec.Due))
		}
		m.soonest(leases, rec.Provider, rec.Held.Lease.Expires)
		m.soonest(expiries, rec.Provider, rec.Expires)
		if rec.Stale.IsZero() {
			fresh++
			continue
		}
		stale++
		oldest = max(oldest, time.Since(rec.Stale.Since))
	}
	ch <- prometheus.MustNewConstMetric(volumesDesc, prometheus.GaugeValue, float64(fresh), "fresh")
	ch <- prometheus.MustNewConstMetric(volumesDesc, prometheus.GaugeValue, float64(stale), "stale")
	ch <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, oldest.Seconds())
	ch <- prometheus.MustNewConstMetric(lagDesc, prometheus.GaugeValue, lag.Seconds())
	for name, left := range leases {
		ch <- prometheus.MustNewConstMetric(leaseDesc, prometheus.GaugeValue, left.Seconds(), name)
	}
	for name, left := range expiries {
		ch <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, left.Seconds(), name)
	}
}

// soonest notes the time that is left until end, if that is less than what is
// noted for the provider.
func (m *Metrics) soonest(left map[string]time.Duration, provider string, end time.Time) {
	if end.IsZero() {
		return
	}
	name := m.providers.label(provider, true)
	if next, ok := left[name]; !ok || time.Until(end) < next {
		left[name] = time.Until(end)
	}
}

// Observe returns next with its calls counted. Neither a call that found a
// volume not due counts, nor one that was cut short: they say nothing.
func (m *Metrics) Observe(next publish.Publisher) publish.Publisher { return &observer{next, m} }

type observer struct {
	next    publish.Publisher
	metrics *Metrics
}

// Publish implements publish.Publisher.
func (o *observer) Publish(ctx context.Context, v volume.Volume) (publish.Result, error) {
	began := time.Now()
	res, err := o.next.Publish(ctx, v)
	o.metrics.published(v.ID, res, err, began)
	o.metrics.warned(v.ID, res)
	return res, err
}

// Refresh implements publish.Publisher.
func (o *observer) Refresh(ctx context.Context, id volume.ID) (publish.Result, error) {
	began := time.Now()
	res, err := o.next.Refresh(ctx, id)
	if !errors.Is(err, volume.ErrNotFound) {
		o.metrics.refreshed(id, res, err, began)
	}
	o.metrics.warned(id, res)
	return res, err
}

// Unpublish implements publish.Publisher.
func (o *observer) Unpublish(ctx context.Context, id volume.ID, target string) error {
	err := o.next.Unpublish(ctx, id, target)
	if err != nil {
		o.metrics.unpublishErrors.WithLabelValues(osType).Inc()
	} else {
		o.metrics.unpublishes.WithLabelValues(osType).Inc()
	}
	return err
}

// published counts a call of kubelet: a publish, or a refresh.
func (m *Metrics) published(id volume.ID, res publish.Result, err error, began time.Time) {
	stale := (*publish.StaleError)(nil)
	switch {
	case cutShort(err):
	case err != nil && !errors.As(err, &stale):
		m.publishErrors.WithLabelValues(m.provider(id, res, err), publish.Reason(err), osType).Inc()
		m.publishDuration.WithLabelValues(m.provider(id, res, err), publish.Reason(err)).Observe(time.Since(began).Seconds())
	case res.Outcome == publish.Created:
		m.publishes.WithLabelValues(m.provider(id, res, nil), osType).Inc()
		m.publishDuration.WithLabelValues(m.provider(id, res, nil), "OK").Observe(time.Since(began).Seconds())
	default:
		m.refreshed(id, res, err, began)
	}
}

// refreshed counts a refresh, whoever asked for it.
func (m *Metrics) refreshed(id volume.ID, res publish.Result, err error, began time.Time) {
	name := func() string { return m.provider(id, res, err) }
	switch {
	case cutShort(err):
		return
	case err != nil:
		m.rotationErrors.WithLabelValues(name(), publish.Reason(err), "false", osType).Inc()
	case res.Outcome == publish.Rotated:
		m.rotations.WithLabelValues(name(), "true", osType).Inc()
	case res.Outcome == publish.Unchanged:
		m.rotations.WithLabelValues(name(), "false", osType).Inc()
	default:
		return
	}
	m.rotationDuration.WithLabelValues(osType).Observe(time.Since(began).Seconds())
}

// warned counts what a volume was given with a warning. Each reason counts
// once, however many objects it is said of.
func (m *Metrics) warned(id volume.ID, res publish.Result) {
	if res.Bundle == nil {
		return
	}
	isExpired := func(w provider.Warning) bool { return w.Reason == provider.Expired } // the only one, so the label has one value
	if slices.ContainsFunc(res.Bundle.Warnings, isExpired) {
		m.warnings.WithLabelValues(m.provider(id, res, nil), string(provider.Expired)).Inc()
	}
}

// cutShort reports whether a call ended because nobody wanted it any more.
func cutShort(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, publish.ErrUnpublished)
}

// provider returns the label for the provider of a volume; "" if it is not known.
func (m *Metrics) provider(id volume.ID, res publish.Result, err error) string {
	name := res.Record.Provider
	if name == "" {
		rec, _ := m.volumes.Get(id)
		name = rec.Provider
	}
	return m.providers.label(name, err == nil)
}
