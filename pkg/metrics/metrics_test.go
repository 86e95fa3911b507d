package metrics_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/metrics"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// canary stands for what no metric may show.
const canary = "c4n4ry-7d1e"

// ends is a Publisher whose calls end as it says, after a while.
type ends struct {
	res   publish.Result
	err   error
	after time.Duration
}

func (e ends) Publish(context.Context, volume.Volume) (publish.Result, error) {
	time.Sleep(e.after)
	return e.res, e.err
}

func (e ends) Refresh(context.Context, volume.ID) (publish.Result, error) {
	time.Sleep(e.after)
	return e.res, e.err
}

func (e ends) Unpublish(context.Context, volume.ID, string) error { return e.err }

// as returns how a call ended, for a volume of the provider "vault".
func as(outcome publish.Outcome, err error) ends {
	return ends{res: publish.Result{Outcome: outcome, Record: record("v", "vault")}, err: err}
}

func record(id volume.ID, provider string) volume.Record {
	return volume.Record{ID: id, Target: "/t/" + string(id), Class: class.Name{Namespace: "ns", Name: canary}, Provider: provider}
}

// stale is the error of a refresh that failed.
func stale(err error) error {
	return &publish.StaleError{ID: "v", Since: time.Now(), Err: fmt.Errorf("%s: %w", canary, err)}
}

var sample = regexp.MustCompile(`(?m)^([a-z]\w*(?:\{.*\})?) (\S+)$`)

// scrape returns the samples whose names begin with one of the prefixes.
func scrape(t *testing.T, m *metrics.Metrics, prefixes ...string) map[string]string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != 200 || strings.Contains(w.Body.String(), canary) {
		t.Fatalf("GET /metrics = %d:\n%s", w.Code, w.Body)
	}
	found := make(map[string]string)
	for _, line := range sample.FindAllStringSubmatch(w.Body.String(), -1) {
		if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line[1], p) }) {
			found[line[1]] = line[2]
		}
	}
	return found
}

// The names and labels are what dashboards for the upstream driver look for.
func TestEachCallCountsOnceAndAsWhatItDid(t *testing.T) {
	unavailable := fmt.Errorf("%s: %w", canary, provider.ErrUnavailable)
	publishes := func(p publish.Publisher) { _, _ = p.Publish(context.Background(), volume.Volume{ID: "v"}) }
	refresh := func(p publish.Publisher) { _, _ = p.Refresh(context.Background(), "v") }
	unpublish := func(p publish.Publisher) { _ = p.Unpublish(context.Background(), "v", "/t") }
	const rotationTook = `rotation_reconcile_duration_sec_count{os_type="linux"}`
	for _, c := range []struct {
		name string
		call func(publish.Publisher)
		ends ends
		want []string
	}{
		{"a volume is new", publishes, as(publish.Created, nil), []string{`node_publish_total{os_type="linux",provider="vault"}`}},
		{"a publish fails", publishes, as("", unavailable), []string{`node_publish_error_total{error_type="Unavailable",os_type="linux",provider="vault"}`}},
		{"a publish fails before its provider is known", publishes, ends{err: class.ErrNotFound}, []string{`node_publish_error_total{error_type="NotFound",os_type="linux",provider=""}`}},
		{"a publish fails for a reason that has no name", publishes, ends{err: errors.New(canary)}, []string{`node_publish_error_total{error_type="Internal",os_type="linux",provider=""}`}},
		{"kubelet's republish brings something new", publishes, as(publish.Rotated, nil), []string{rotationTook, `rotation_reconcile_total{os_type="linux",provider="vault",rotated="true"}`}},
		{"kubelet's republish brings nothing new", publishes, as(publish.Unchanged, nil), []string{rotationTook, `rotation_reconcile_total{os_type="linux",provider="vault",rotated="false"}`}},
		{"kubelet's republish is not due", publishes, as(publish.NotDue, nil), nil},
		{"kubelet's republish fails", publishes, as("", stale(provider.ErrDenied)), []string{rotationTook, `rotation_reconcile_error_total{error_type="Denied",os_type="linux",provider="vault",rotated="false"}`}},
		{"a publish is overtaken by the unpublish", publishes, ends{err: fmt.Errorf("fetch: %w", publish.ErrUnpublished)}, nil},
		{"nobody waits for a publish any more", publishes, ends{err: fmt.Errorf("fetch: %w", context.Canceled)}, nil},
		{"a refresh brings something new", refresh, as(publish.Rotated, nil), []string{rotationTook, `rotation_reconcile_total{os_type="linux",provider="vault",rotated="true"}`}},
		{"a refresh brings nothing new", refresh, as(publish.Unchanged, nil), []string{rotationTook, `rotation_reconcile_total{os_type="linux",provider="vault",rotated="false"}`}},
		{"a refresh waits for tokens", refresh, as(publish.NotDue, nil), nil},
		{"a refresh fails", refresh, as("", stale(class.ErrInvalid)), []string{rotationTook, `rotation_reconcile_error_total{error_type="Invalid",os_type="linux",provider="vault",rotated="false"}`}},
		{"a refresh fails before its provider is known", refresh, ends{err: unavailable}, []string{rotationTook, `rotation_reconcile_error_total{error_type="Unavailable",os_type="linux",provider="",rotated="false"}`}},
		{"a refresh finds the volume gone", refresh, ends{err: fmt.Errorf("volume v: %w", volume.ErrNotFound)}, nil},
		{"a refresh is overtaken by the unpublish", refresh, as("", stale(publish.ErrUnpublished)), nil},
		{"the driver stops during a refresh", refresh, as("", stale(context.Canceled)), nil},
		{"a volume is unpublished", unpublish, ends{}, []string{`node_unpublish_total{os_type="linux"}`}},
		{"an unpublish fails", unpublish, ends{err: errors.New(canary)}, []string{`node_unpublish_error_total{os_type="linux"}`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var store volume.Memory
			m := metrics.New(&store, "v1")
			c.call(m.Observe(c.ends))
			got := scrape(t, m, "node_", "rotation_reconcile_total", "rotation_reconcile_error_total", "rotation_reconcile_duration_sec_count")
			if diff := cmp.Diff(c.want, slices.Sorted(maps.Keys(got))); diff != "" {
				t.Errorf("samples (-want +got):\n%s", diff)
			}
			for name, value := range got {
				if value != "1" {
					t.Errorf("%s = %s, want 1", name, value)
				}
			}
		})
	}
}

// warning returns how a call ended whose bundle has these warnings.
func warning(outcome publish.Outcome, reasons ...provider.WarningReason) ends {
	e := as(outcome, nil)
	e.res.Bundle = &provider.Bundle{}
	for _, reason := range reasons {
		e.res.Bundle.Warnings = append(e.res.Bundle.Warnings, provider.Warning{Reason: reason, Message: canary})
	}
	return e
}

func TestWarningsCountOnceForEachBundle(t *testing.T) {
	m := metrics.New(&volume.Memory{}, "v1")
	for _, e := range []ends{
		as(publish.Created, nil), as(publish.NotDue, nil), as("", stale(provider.ErrDenied)), {err: provider.ErrDenied}, warning(publish.Rotated), warning(publish.Created, canary),
	} {
		_, _ = m.Observe(e).Publish(t.Context(), volume.Volume{ID: "v"})
		_, _ = m.Observe(e).Refresh(t.Context(), "v")
	}
	if got := scrape(t, m, "keymount_warnings_total"); len(got) != 0 {
		t.Errorf("without a warning that is known there is %v", got)
	}
	_, _ = m.Observe(warning(publish.Created, provider.Expired, canary, provider.Expired)).Publish(t.Context(), volume.Volume{ID: "v"})
	_, _ = m.Observe(warning(publish.Unchanged, provider.Expired)).Publish(t.Context(), volume.Volume{ID: "v"})
	_, _ = m.Observe(warning(publish.Rotated, provider.Expired)).Refresh(t.Context(), "v")
	want := map[string]string{`keymount_warnings_total{provider="vault",reason="Expired"}`: "3"}
	if diff := cmp.Diff(want, scrape(t, m, "keymount_warnings_total")); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}

func TestTheRecordTellsWhoseVolumeItIs(t *testing.T) {
	var store volume.Memory
	if err := store.Put(record("v", "azure")); err != nil {
		t.Fatal(err)
	}
	m := metrics.New(&store, "v1")
	p := m.Observe(ends{err: provider.ErrUnavailable})
	_, _ = p.Publish(t.Context(), volume.Volume{ID: "v"})
	_, _ = p.Refresh(t.Context(), "v")
	want := map[string]string{
		`node_publish_error_total{error_type="Unavailable",os_type="linux",provider="azure"}`:                       "1",
		`rotation_reconcile_error_total{error_type="Unavailable",os_type="linux",provider="azure",rotated="false"}`: "1",
	}
	if diff := cmp.Diff(want, scrape(t, m, "node_", "rotation_reconcile_error_total")); diff != "" {
		t.Errorf("samples (-want +got):\n%s", diff)
	}
}

// What a call returns is what the caller of the decorator gets.
func TestCallsPassUnchanged(t *testing.T) {
	want := as(publish.Rotated, stale(provider.ErrDenied))
	p := metrics.New(&volume.Memory{}, "v1").Observe(want)
	published, publishErr := p.Publish(t.Context(), volume.Volume{ID: "v"})
	refreshed, refreshErr := p.Refresh(t.Context(), "v")
	unpublishErr := p.Unpublish(t.Context(), "v", "/t")
	if !errors.Is(publishErr, want.err) || !errors.Is(refreshErr, want.err) || !errors.Is(unpublishErr, want.err) {
		t.Errorf("errors %v and %v, want %v", publishErr, refreshErr, want.err)
	}
	if diff := cmp.Diff([]publish.Result{want.res, want.res}, []publish.Result{published, refreshed}); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

func TestBucketsReachFromAMillisecondToTwoMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := metrics.New(&volume.Memory{}, "v1")
		for _, after := range []time.Duration{time.Millisecond, 15 * time.Millisecond, 90 * time.Second, 121 * time.Second} {
			call := as(publish.Unchanged, nil)
			call.after = after
			_, _ = m.Observe(call).Refresh(t.Context(), "v")
		}
		got := scrape(t, m, "rotation_reconcile_duration_sec")
		for name, want := range map[string]string{
			`rotation_reconcile_duration_sec_bucket{os_type="linux",le="0.001"}`: "1",
			`rotation_reconcile_duration_sec_bucket{os_type="linux",le="0.01"}`:  "1",
			`rotation_reconcile_duration_sec_bucket{os_type="linux",le="0.02"}`:  "2",
			`rotation_reconcile_duration_sec_bucket{os_type="linux",le="60"}`:    "2",
			`rotation_reconcile_duration_sec_bucket{os_type="linux",le="120"}`:   "3",
			`rotation_reconcile_duration_sec_bucket{os_type="linux",le="+Inf"}`:  "4",
			`rotation_reconcile_duration_sec_count{os_type="linux"}`:             "4",
		} {
			if got[name] != want {
				t.Errorf("%s = %q, want %s", name, got[name], want)
			}
		}
	})
}

func TestGaugesShowTheVolumesAsTheyAreNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var store volume.Memory
		m := metrics.New(&store, "v1")
		must := func(fresh, stale, oldest string) {
			t.Helper()
			want := map[string]string{`keymount_volumes{state="fresh"}`: fresh, `keymount_volumes{state="stale"}`: stale, "keymount_oldest_stale_seconds": oldest}
			if diff := cmp.Diff(want, scrape(t, m, "keymount_volumes", "keymount_oldest")); diff != "" {
				t.Errorf("gauges (-want +got):\n%s", diff)
			}
		}
		put := func(id volume.ID, failures int) {
			t.Helper()
			rec := record(id, "vault")
			rec.Stale = volume.Staleness{Since: time.Now(), Failures: failures, Message: canary}
			if err := store.Put(rec); err != nil {
				t.Fatal(err)
			}
		}
		must("0", "0", "0")
		put("a", 0)
		put("b", 1)
		time.Sleep(90 * time.Second)
		put("c", 3)
		must("1", "2", "90")
		put("b", 0)
		time.Sleep(time.Second)
		must("2", "1", "1")
		if err := store.Delete("c"); err != nil {
			t.Fatal(err)
		}
		must("2", "0", "0")
	})
}

// Whoever may write classes may name any provider in them.
func TestInventedProvidersDoNotGrowTheMetrics(t *testing.T) {
	m := metrics.New(&volume.Memory{}, "v1")
	end := func(name string, outcome publish.Outcome, err error) {
		e := ends{res: publish.Result{Outcome: outcome, Record: record("v", name)}, err: err}
		_, _ = m.Observe(e).Publish(t.Context(), volume.Volume{ID: "v"})
	}
	for i := range 1000 {
		end(fmt.Sprintf("invented-%d", i), "", provider.ErrUnavailable)
	}
	if got := scrape(t, m, "node_publish_error_total"); len(got) != 33 || got[`node_publish_error_total{error_type="Unavailable",os_type="linux",provider="other"}`] != "968" {
		t.Errorf("1000 invented providers make %d series: %v", len(got), got)
	}
	end("vault", publish.Created, nil)
	end("vault", "", provider.ErrUnavailable)
	end("", "", class.ErrNotFound)
	for _, want := range []string{
		`node_publish_total{os_type="linux",provider="vault"}`,
		`node_publish_error_total{error_type="Unavailable",os_type="linux",provider="vault"}`,
		`node_publish_error_total{error_type="NotFound",os_type="linux",provider=""}`,
	} {
		if got := scrape(t, m, "node_publish")[want]; got != "1" {
			t.Errorf("%s = %q, want 1: a provider that works, and none, are no inventions", want, got)
		}
	}
}

func TestTheBuildAndTheProcessAreThere(t *testing.T) {
	m := metrics.New(&volume.Memory{}, "v1.2.3")
	if got := scrape(t, m, "keymount_build_info"); !maps.Equal(got, map[string]string{`keymount_build_info{version="v1.2.3"}`: "1"}) {
		t.Errorf("build info = %v", got)
	}
	for _, prefix := range []string{"go_goroutines", "process_resident_memory_bytes", "process_open_fds"} {
		if len(scrape(t, m, prefix)) != 1 {
			t.Errorf("there is no %s", prefix)
		}
	}
}

// The table of docs/flags.md has exactly the metrics that there are.
func TestEveryMetricIsDocumented(t *testing.T) {
	leased := &volume.Memory{}
	rec := record("v", "vault")
	rec.Held.Lease.Expires, rec.Expires = time.Now().Add(time.Hour), time.Now().Add(time.Hour)
	if err := leased.Put(rec); err != nil {
		t.Fatal(err)
	}
	m := metrics.New(leased, "v1")
	m.Audit(func() (writes, lost int64) { return 0, 0 })
	_, _ = m.Wanted("vault", m.Called("vault", answers{})).Fetch(t.Context(), &provider.Request{})
	for _, e := range []ends{warning(publish.Created, provider.Expired), as(publish.Rotated, nil), as("", stale(provider.ErrDenied)), {err: provider.ErrDenied}} {
		_, _ = m.Observe(e).Publish(t.Context(), volume.Volume{ID: "v"})
		_ = m.Observe(e).Unpublish(t.Context(), "v", "/t")
	}
	got := make(map[string]bool)
	for name := range scrape(t, m, "node_", "rotation_", "keymount_") {
		name, _, _ = strings.Cut(name, "{")
		got[strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(name, "_bucket"), "_sum"), "_count")] = true
	}
	doc, err := os.ReadFile("../../docs/flags.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `((?:node|rotation|keymount)_\\w+)` \\|").FindAllSubmatch(doc, -1) {
		documented[string(row[1])] = true
	}
	if diff := cmp.Diff(got, documented); diff != "" {
		t.Errorf("metrics (-) and docs/flags.md (+) differ:\n%s", diff)
	}
}

// answers is a provider that has nothing new, or fails.
type answers struct{ err error }

func (a answers) Fetch(context.Context, *provider.Request) (*provider.Bundle, error) {
	if a.err != nil {
		return nil, a.err
	}
	return &provider.Bundle{Unchanged: true}, nil
}

func TestWhatIsWantedAndWhatProvidersAreAskedFor(t *testing.T) {
	m := metrics.New(&volume.Memory{}, "v1")
	called := m.Called("vault", answers{})
	for range 3 { // two of which share the answer of the first
		_, _ = m.Wanted("vault", answers{}).Fetch(t.Context(), &provider.Request{})
	}
	_, _ = called.Fetch(t.Context(), &provider.Request{})
	_, _ = m.Called("vault", answers{provider.ErrDenied}).Fetch(t.Context(), &provider.Request{})
	got := scrape(t, m, "keymount_fetches_total", "keymount_provider_call_duration_seconds_count")
	want := map[string]string{
		`keymount_fetches_total{provider="vault"}`:                                           "3",
		`keymount_provider_call_duration_seconds_count{provider="vault",result="Denied"}`:    "1",
		`keymount_provider_call_duration_seconds_count{provider="vault",result="Unchanged"}`: "1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestWhatIsDueAndWhatEndsNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		volumes := &volume.Memory{}
		for i, left := range []time.Duration{time.Hour, time.Minute} {
			rec := record(volume.ID(fmt.Sprint(i)), "vault")
			rec.Due, rec.Held.Lease.Expires, rec.Expires = time.Now().Add(-left), time.Now().Add(left), time.Now().Add(-left)
			if err := volumes.Put(rec); err != nil {
				t.Fatal(err)
			}
		}
		got := scrape(t, metrics.New(volumes, "v1"), "keymount_rotation_lag_seconds", "keymount_next_")
		want := map[string]string{
			"keymount_rotation_lag_seconds":                         "3600",
			`keymount_next_lease_expiry_seconds{provider="vault"}`:  "60",
			`keymount_next_secret_expiry_seconds{provider="vault"}`: "-3600", // it has expired
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	})
}

// Several drivers in one process, as tests have them, do not share metrics.
func TestMetricsAreOfOneDriver(t *testing.T) {
	one, two := metrics.New(&volume.Memory{}, "v1"), metrics.New(&volume.Memory{}, "v1")
	_ = one.Observe(ends{}).Unpublish(t.Context(), "v", "/t")
	if got := scrape(t, two, "node_"); len(got) != 0 {
		t.Errorf("the other driver has counted %v", got)
	}
}

func TestWhatFailsOfTheAuditLogIsShown(t *testing.T) {
	m := metrics.New(&volume.Memory{}, "v1")
	if got := scrape(t, m, "keymount_audit_"); len(got) != 0 {
		t.Errorf("without an audit log: %v", got)
	}
	m.Audit(func() (writes, lost int64) { return 2, 5 })
	want := map[string]string{"keymount_audit_write_errors_total": "2", "keymount_audit_lost_events": "5"}
	if diff := cmp.Diff(want, scrape(t, m, "keymount_audit_")); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
