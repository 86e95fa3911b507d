package main

import (
	"fmt"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
)

// A use is a query, and whose it is.
type use struct {
	place  string
	expr   parser.Expr
	labels []string // that its legend or text has
}

var labelOfText = regexp.MustCompile(`{{ *(?:\$labels\.)?(\w+) *}}`)

func labelsIn(texts ...string) (found []string) {
	for _, match := range labelOfText.FindAllStringSubmatch(strings.Join(texts, " "), -1) {
		found = append(found, match[1])
	}
	return found
}

// uses returns all queries of the dashboard and of the alerts.
func uses(t *testing.T) (all []use) {
	t.Helper()
	add := func(place, expr string, ls []string) {
		parsed, err := newParser().ParseExpr(expr)
		if err != nil {
			t.Fatalf("%s: %v", place, err)
		}
		all = append(all, use{place, parsed, ls})
	}
	for _, p := range dashboardOf(t).Panels {
		for _, target := range p.Targets {
			add(fmt.Sprintf("panel %q", p.Title), target.expression(recordingOf(t).every), labelsIn(target.Legend))
		}
	}
	rules, err := readRules(filepath.Join(repository, rulesFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		add("alert "+r.Alert, r.Expr, labelsIn(slices.Collect(maps.Values(r.Annotations))...))
	}
	return all
}

// selected returns the labels that any series has which the expression asks
// for, and complains of selectors that no series matches.
func selected(expr parser.Expr, r *recording, complain func(selector string)) map[string]bool {
	found := make(map[string]bool)
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		selector, ok := node.(*parser.VectorSelector)
		if !ok {
			return nil
		}
		matches := false
		for _, s := range r.series {
			if !slices.ContainsFunc(selector.LabelMatchers, func(m *labels.Matcher) bool { return !m.Matches(s.labels.Get(m.Name)) }) {
				matches = true
				s.labels.Range(func(l labels.Label) { found[l.Name] = true })
			}
		}
		for _, m := range selector.LabelMatchers {
			matches = matches && found[m.Name]
		}
		if !matches {
			complain(selector.String())
		}
		return nil
	})
	return found
}

// The drivers of the scenario are real, and so is what they expose.
func TestQueriesAskForWhatDriversExpose(t *testing.T) {
	r := recordingOf(t)
	for _, u := range uses(t) {
		known := selected(u.expr, r, func(selector string) { t.Errorf("%s asks for %s: no driver exposes that", u.place, selector) })
		wanted := slices.Clone(u.labels)
		parser.Inspect(u.expr, func(node parser.Node, _ []parser.Node) error {
			switch n := node.(type) {
			case *parser.AggregateExpr:
				wanted = append(wanted, n.Grouping...)
			case *parser.BinaryExpr:
				if n.VectorMatching != nil {
					wanted = append(wanted, n.VectorMatching.MatchingLabels...)
				}
			}
			return nil
		})
		for _, label := range wanted {
			if !known[label] {
				t.Errorf("%s speaks of the label %q: no metric that it asks for has one", u.place, label)
			}
		}
	}
}

var ours = regexp.MustCompile(`^(?:node|rotation|keymount)_`)

// family returns the name of a metric, without what a histogram adds.
func family(name string) string {
	for _, suffix := range []string{"_bucket", "_sum", "_count"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}

// exposed returns our own metrics that drivers exposed.
func exposed(r *recording) map[string]bool {
	found := make(map[string]bool)
	for _, s := range r.series {
		if name := s.labels.Get(model.MetricNameLabel); ours.MatchString(name) {
			found[family(name)] = true
		}
	}
	return found
}

func TestTheScenarioMakesEveryMetricThatIsDocumented(t *testing.T) {
	documented := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| `((?:node|rotation|keymount)_\\w+)` \\|").FindAllStringSubmatch(readFile(t, "docs/flags.md"), -1) {
		documented[row[1]] = true
	}
	if diff := cmp.Diff(documented, exposed(recordingOf(t))); diff != "" {
		t.Errorf("docs/flags.md (-) and what drivers exposed (+) differ:\n%s", diff)
	}
}

func TestEveryMetricOfOursIsShownOrWatched(t *testing.T) {
	used := make(map[string]bool)
	for _, u := range uses(t) {
		parser.Inspect(u.expr, func(node parser.Node, _ []parser.Node) error {
			if selector, ok := node.(*parser.VectorSelector); ok {
				used[family(selector.Name)] = true
			}
			return nil
		})
	}
	for name := range exposed(recordingOf(t)) {
		if !used[name] {
			t.Errorf("%s is in no panel and in no alert", name)
		}
	}
}

// However many pods there are, the number of series is that of nodes,
// providers and results.
func TestNoLabelNamesAPodOrAnObject(t *testing.T) {
	allowed := []string{model.MetricNameLabel, "job", "instance", "node", "os_type", "provider", "error_type", "result", "rotated", "reason", "state", "version", "le"}
	for _, s := range recordingOf(t).series {
		if !ours.MatchString(s.labels.Get(model.MetricNameLabel)) {
			continue
		}
		s.labels.Range(func(l labels.Label) {
			if !slices.Contains(allowed, l.Name) {
				t.Errorf("%s has the label %s", s.labels, l.Name)
			}
		})
	}
}
