package deploy

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

const chart = "deploy/helm/keymount"

// read returns a file of the chart.
func read(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, chart, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// values returns the default values of the chart.
func values(t *testing.T) map[string]any {
	t.Helper()
	var all map[string]any
	if err := yaml.UnmarshalStrict(read(t, "values.yaml"), &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// rules is what the tests read of the schema of values.
type rules struct {
	Properties map[string]rules `json:"properties"`
	Additional any              `json:"additionalProperties"`
}

// closed reports whether there is nothing but the properties.
func (r rules) closed() bool { return r.Additional == false }

func TestTheSchemaKnowsExactlyTheValues(t *testing.T) {
	var top rules
	if err := json.Unmarshal(read(t, "values.schema.json"), &top); err != nil {
		t.Fatal(err)
	}
	delete(top.Properties, "global") // which Helm adds in a chart of charts
	// What Kubernetes allows besides, and what has no default here.
	optional := map[string]bool{"driver.resources.claims": true, "providers.resources.claims": true, "updateStrategy.rollingUpdate.maxSurge": true}
	var compare func(path string, r rules, v map[string]any)
	compare = func(path string, r rules, v map[string]any) {
		if !r.closed() {
			t.Errorf("%s may have values that the schema does not name", path)
		}
		known := maps.Clone(r.Properties)
		maps.DeleteFunc(known, func(name string, _ rules) bool { return optional[path+name] })
		if diff := cmp.Diff(slices.Sorted(maps.Keys(known)), slices.Sorted(maps.Keys(v))); diff != "" {
			t.Errorf("%q: -schema +values.yaml\n%s", path, diff)
		}
		for name, inner := range known {
			if len(inner.Properties) > 0 {
				compare(path+name+".", inner, v[name].(map[string]any))
			}
		}
	}
	compare("", top, values(t))
}

// defaultRow is a row of the table of values: name and default.
var defaultRow = regexp.MustCompile("(?m)^\\| `([^`]+)` \\| `([^`]*)` \\| .+ \\|$")

func TestTheTableOfValuesIsComplete(t *testing.T) {
	documented := map[string]string{}
	for _, row := range defaultRow.FindAllStringSubmatch(string(read(t, "README.md")), -1) {
		documented[row[1]] = row[2]
	}
	var visit func(path string, v any)
	visit = func(path string, v any) {
		text, ok := documented[path]
		inner, isMap := v.(map[string]any)
		switch {
		case ok:
			delete(documented, path)
			if want, err := json.Marshal(v); !isMap && (err != nil || strings.Trim(string(want), `"`) != strings.Trim(text, `"`)) && !strings.HasPrefix(string(want), "[") {
				t.Errorf("README.md: the default of %s is %s, values.yaml says %s", path, text, want)
			}
		case isMap && len(inner) > 0:
			for name, v := range inner {
				visit(strings.TrimPrefix(path+"."+name, "."), v)
			}
		default:
			t.Errorf("README.md does not have %s", path)
		}
	}
	visit("", values(t))
	for name := range documented {
		t.Errorf("README.md has %s, which is no value", name)
	}
}

func TestTheExampleOfAnAuditedNodeIsRendered(t *testing.T) {
	example, err := os.ReadFile(filepath.Join(repository, "examples/audited/values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile("testdata/values-audited.yaml"); err != nil || string(text) != string(example) {
		t.Errorf("testdata/values-audited.yaml is not examples/audited/values.yaml, %v", err)
	}
}

// The examples of README.md are variants that are rendered and tested.
func TestTheExamplesOfValuesAreRendered(t *testing.T) {
	for _, name := range []string{"values-stores.yaml", "values-aws.yaml", "values-azure.yaml"} {
		text, err := os.ReadFile("testdata/" + name)
		if err != nil {
			t.Fatal(err)
		}
		_, example, _ := strings.Cut(string(text), "\n")
		if !strings.Contains(string(read(t, "README.md")), "```yaml\n"+example+"```\n") {
			t.Errorf("README.md does not show testdata/%s without its first line", name)
		}
	}
}
