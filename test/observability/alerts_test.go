package main

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/template"
	"go.yaml.in/yaml/v3"
)

const alertTests = "deploy/dashboards/alerts_test.yaml"

// suite is what is needed of promtool's format.
type suite struct {
	Every model.Duration `yaml:"evaluation_interval"`
	Files []string       `yaml:"rule_files"`
	Tests []scene        `yaml:"tests"`
}

// A scene is some series, and the alerts that come of them.
type scene struct {
	Name   string         `yaml:"name"`
	Every  model.Duration `yaml:"interval"`
	Series []struct {
		Series, Values string
	} `yaml:"input_series"`
	Checks []struct {
		At    model.Duration `yaml:"eval_time"`
		Alert string         `yaml:"alertname"`
		Want  []alert        `yaml:"exp_alerts"`
	} `yaml:"alert_rule_test"`
}

// An alert is one that fires.
type alert struct {
	Labels      map[string]string `yaml:"exp_labels"`
	Annotations map[string]string `yaml:"exp_annotations"`
}

// `make rules` runs the same file with promtool.
func TestAlertsFireWhereTheyShould(t *testing.T) {
	var tests suite
	d := yaml.NewDecoder(strings.NewReader(readFile(t, alertTests)))
	d.KnownFields(true)
	if err := d.Decode(&tests); err != nil {
		t.Fatal(err)
	}
	rules := rulesOf(t)
	fires, silent := make(map[string]bool), make(map[string]bool)
	for _, s := range tests.Tests {
		t.Run(s.Name, func(t *testing.T) {
			r := s.play(t)
			for _, check := range s.Checks {
				got := r.fire(t, rules[check.Alert], time.Duration(check.At), time.Duration(tests.Every))
				if diff := cmp.Diff(check.Want, got); diff != "" && len(check.Want)+len(got) > 0 {
					t.Errorf("%s after %s (-want +got):\n%s", check.Alert, check.At, diff)
				}
				fires[check.Alert] = fires[check.Alert] || len(got) > 0
				silent[check.Alert] = silent[check.Alert] || len(got) == 0
			}
		})
	}
	for name := range rules {
		if !fires[name] || !silent[name] {
			t.Errorf("%s: %s must show %s once when it fires and once when it does not", name, alertTests, name)
		}
	}
}

func rulesOf(t *testing.T) map[string]rulefmt.Rule {
	t.Helper()
	rules, err := readRules(filepath.Join(repository, rulesFile))
	if err != nil {
		t.Fatal(err)
	}
	byName := make(map[string]rulefmt.Rule)
	for _, r := range rules {
		if _, twice := byName[r.Alert]; twice || r.Alert == "" {
			t.Errorf("a rule is no alert, or its name %q is given twice", r.Alert)
		}
		byName[r.Alert] = r
	}
	return byName
}

// play returns a recording of the series of the scene, which begin at 0.
func (s scene) play(t *testing.T) *recording {
	t.Helper()
	r := &recording{every: time.Duration(s.Every)}
	for _, input := range s.Series {
		ls, values, err := newParser().ParseSeriesDesc(input.Series + " " + input.Values)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range values {
			if !v.Omitted {
				r.add(ls, time.UnixMilli(int64(i)*r.every.Milliseconds()), v.Value)
			}
		}
	}
	return r
}

// fire returns the alerts of the rule at a time, if it is evaluated each time
// from the beginning on.
func (r *recording) fire(t *testing.T, rule rulefmt.Rule, at, every time.Duration) (firing []alert) {
	t.Helper()
	engine := newEngine(5 * time.Minute)
	defer func() { _ = engine.Close() }()
	since := make(map[string]time.Duration) // labels -> when it began
	for now := time.Duration(0); now <= at; now += every {
		ts := time.UnixMilli(now.Milliseconds())
		q, err := engine.NewInstantQuery(t.Context(), r, nil, rule.Expr, ts)
		if err != nil {
			t.Fatal(err)
		}
		found, err := q.Exec(t.Context()).Vector()
		if err != nil {
			t.Fatal(err)
		}
		firing = nil
		pending := make(map[string]time.Duration)
		for _, sample := range found {
			key := sample.Metric.String()
			if _, ok := since[key]; !ok {
				since[key] = now
			}
			pending[key] = since[key]
			if now-since[key] >= time.Duration(rule.For) {
				firing = append(firing, tell(t, rule, sample, ts))
			}
		}
		since = pending
		q.Close()
	}
	return firing
}

// tell returns the alert of a sample.
func tell(t *testing.T, rule rulefmt.Rule, sample promql.Sample, at time.Time) alert {
	t.Helper()
	b := labels.NewBuilder(sample.Metric)
	b.Del(model.MetricNameLabel)
	for name, value := range rule.Labels {
		b.Set(name, value)
	}
	a := alert{Labels: b.Labels().Map(), Annotations: make(map[string]string)}
	noQuery := func(context.Context, string, time.Time) (promql.Vector, error) { return nil, nil }
	for name, text := range rule.Annotations {
		data := template.AlertTemplateData(sample.Metric.Map(), nil, "", sample)
		text = "{{$labels := .Labels}}{{$value := .Value}}" + text
		out, err := template.NewTemplateExpander(t.Context(), text, rule.Alert, data, model.TimeFromUnixNano(at.UnixNano()), noQuery, nil, nil).Expand()
		if err != nil {
			t.Fatal(err)
		}
		a.Annotations[name] = out
	}
	return a
}

// Whoever is woken by an alert finds out what it means and what to do.
func TestAlertsSayWhatToDo(t *testing.T) {
	const docs = "https://github.com/keymount/keymount/blob/main/docs/observability.md#"
	page := readFile(t, "docs/observability.md")
	for name, r := range rulesOf(t) {
		if severity := r.Labels["severity"]; severity != "warning" && severity != "critical" {
			t.Errorf("%s has the severity %q", name, severity)
		}
		if got := slices.Sorted(maps.Keys(r.Annotations)); !slices.Equal(got, []string{"description", "runbook_url", "summary"}) {
			t.Errorf("%s has the annotations %q", name, got)
		}
		anchor := strings.ToLower(name)
		if r.Annotations["runbook_url"] != docs+anchor {
			t.Errorf("the runbook of %s is %s", name, r.Annotations["runbook_url"])
		}
		row := `| <a id="` + anchor + `"></a>` + "`" + name + "` | " + r.Labels["severity"] + " |"
		if !strings.Contains(page, row) {
			t.Errorf("docs/observability.md has no row that begins with %s", row)
		}
	}
}
