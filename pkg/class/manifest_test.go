package class_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keymount/keymount/pkg/class"
)

// manifest is a valid class, the start of most cases.
const manifest = `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: app
  namespace: shop
  labels: {team: a}
spec:
  provider: file
  parameters:
    objects: |
      - objectName: db
        path: db/password
  secretObjects:
  - secretName: db
    type: Opaque
`

func app() *class.Class {
	return &class.Class{
		Name:       class.Name{Namespace: "shop", Name: "app"},
		Provider:   "file",
		Parameters: map[string]string{"objects": "- objectName: db\n  path: db/password\n"},
	}
}

func named(namespace, name string) *class.Class {
	c := app()
	c.Name = class.Name{Namespace: namespace, Name: name}
	return c
}

func replace(old, replacement string) string {
	changed := strings.Replace(manifest, old, replacement, 1)
	if changed == manifest {
		panic("the manifest has no " + old)
	}
	return changed
}

var ignoreRevision = cmpopts.IgnoreFields(class.Class{}, "Revision")

func TestParseAccepts(t *testing.T) {
	noParameters := app()
	noParameters.Parameters = map[string]string{}
	const asJSON = `{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass",
		"metadata":{"name":"app","namespace":"shop"},
		"spec":{"provider":"file","parameters":{"objects":"- objectName: db\n  path: db\/password\n"}}}`
	tests := []struct {
		name string
		data string
		want []*class.Class
	}{
		{"a class", manifest, []*class.Class{app()}},
		{"the older version", replace("/v1", "/v1alpha1"), []*class.Class{app()}},
		{"JSON with tabs", asJSON, []*class.Class{app()}},
		{"Windows line ends", strings.ReplaceAll(manifest, "\n", "\r\n"), []*class.Class{app()}},
		{"a byte order mark", "\ufeff---\n" + manifest, []*class.Class{app()}},
		{"no namespace is default", replace("  namespace: shop\n", ""), []*class.Class{named("default", "app")}},
		{"an empty namespace is default", replace("shop", `""`), []*class.Class{named("default", "app")}},
		{"no parameters", replace(manifest[strings.Index(manifest, "  parameters"):], ""), []*class.Class{noParameters}},
		{"a status, as kubectl prints it", manifest + "status: {}\n", []*class.Class{app()}},
		{"a directive and a document end", "%YAML 1.1\n---\n" + manifest + "...\n", []*class.Class{app()}},
		{
			"two documents with comments between", "# first\n---\n" + manifest + "--- # second\n" + replace("app", "web") + "---\n# nothing\n",
			[]*class.Class{app(), named("shop", "web")},
		},
		{"a document after the end of another", manifest + "...\n" + replace("app", "web"), []*class.Class{app(), named("shop", "web")}},
		{"a pod beside it", "kind: Pod\napiVersion: v1\nmetadata: {name: x}\n---\n" + manifest, []*class.Class{app()}},
		{"another group's kind of the same name", replace("secrets-store.csi.x-k8s.io", "example.com"), nil},
		{"text that is no object", "just text\n---\n[1, 2]\n", nil},
		{"an empty file", "", nil},
		{"only comments", "# nothing\n---\n", nil},
		{
			"a list", "apiVersion: v1\nkind: List\nitems:\n- {kind: Pod, apiVersion: v1}\n- " + strings.ReplaceAll(strings.TrimSpace(manifest), "\n", "\n  "),
			[]*class.Class{app()},
		},
		{"an empty list", "apiVersion: v1\nkind: List\nitems:\n", nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := class.Parse([]byte(test.data))
			if err != nil {
				t.Fatalf("Parse(%q): %v", test.data, err)
			}
			// The block text of a Windows file has plain line ends, as YAML wants.
			if diff := cmp.Diff(test.want, got, ignoreRevision); diff != "" {
				t.Errorf("Parse(%q) (-want +got):\n%s", test.data, diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	value := func(v string) string {
		return replace("    objects: |\n      - objectName: db\n        path: db/password", "    key: "+v)
	}
	tests := []struct {
		name string
		data string
		want string
	}{
		{"no name", replace("  name: app\n", ""), "document 1: metadata.name is missing"},
		{"a number for a name", replace("name: app", "name: 7"), "document 1: metadata.name is missing or not a name"},
		{"a name with a slash", replace("name: app", "name: a/b"), "document 1: metadata.name is missing or not a name"},
		{"a number for a namespace", replace("shop", "7"), `document 1: metadata.namespace of "app" is not a name`},
		{"no spec", manifest[:strings.Index(manifest, "spec:")], "class shop/app in document 1: spec is missing"},
		{"no provider", replace("  provider: file\n", ""), "class shop/app in document 1: spec.provider is missing"},
		{"a path for a provider", replace("file", "../file"), "class shop/app in document 1: spec.provider is missing or not the name"},
		{"a long provider name", replace("file", strings.Repeat("f", 31)), "class shop/app in document 1: spec.provider"},
		{"a field that is misspelt", replace("parameters", "paramaters"), "class shop/app in document 1: spec.paramaters is not a field"},
		{"no apiVersion", replace("apiVersion: secrets-store.csi.x-k8s.io/v1\n", ""), "class shop/app in document 1: its apiVersion is missing"},
		{"an unknown version", replace("/v1", "/v9"), "class shop/app in document 1: its apiVersion is missing or not served: set it to secrets-store.csi.x-k8s.io/v1"},
		{"a number", value("7"), `class shop/app in document 1: spec.parameters: the value of "key" is not text: quote it`},
		{"a boolean", value("yes"), `the value of "key" is not text: quote it`},
		{"nothing", value(""), `the value of "key" is not text: quote it`},
		{"a float", value(".inf"), `the value of "key" is not text: quote it`},
		{"a list", value("[a]"), `the value of "key" is a structure and not text: write it as a block of text, "key: |"`},
		{"a mapping", value("{a: b}"), `the value of "key" is a structure`},
		{"binary", value("!!binary /w=="), `spec.parameters: "key" is not UTF-8 text`},
		{"parameters that are a list", replace("parameters:\n    objects: |\n      - objectName: db\n        path: db/password", "parameters: [a]"), "spec.parameters is not a mapping"},
		{"a tab", value("\t\tx: [\n\t- y"), "document 1: it is not valid YAML near line"},
		{"a key that is given twice", replace("  provider: file\n", "  provider: file\n  provider: vault\n"), "document 1: it is not valid YAML near line"},
		{"a syntax error in the second document", "kind: Pod\n---\na: b: c\n", "document 2: it is not valid YAML near line 3"},
		{"too many bytes", value(strings.Repeat("x", 1<<20)), "at most 1048576 are allowed"},
		{"many bytes through aliases", bomb(), "at most 1048576 are allowed"},
		{"a name defined twice", manifest + "---\n" + manifest, "class shop/app is defined more than once (document 1; document 2)"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, err := class.Parse([]byte(test.data))
			if !errors.Is(err, class.ErrInvalid) || !strings.Contains(fmt.Sprint(err), test.want) {
				t.Errorf("Parse: error %v, want ErrInvalid with %q", err, test.want)
			}
			if len(got) > 0 {
				t.Errorf("Parse = %v, want nothing", got)
			}
		})
	}
}

// bomb is a manifest of 200 KB whose parameters have 300 MB.
func bomb() string {
	parameters := fmt.Sprintf("\n    a: &a %s\n", strings.Repeat("x", 100_000))
	for i := range 3000 {
		parameters += fmt.Sprintf("    k%d: *a\n    l%d: x\n", i, i)
	}
	return replace("\n    objects: |\n      - objectName: db\n        path: db/password\n", parameters)
}

func TestParseErrorsQuoteNoValue(t *testing.T) {
	canary := rand.Text()
	for _, value := range []string{
		"[" + canary, canary + ": " + canary, "!!int " + canary, "*" + canary, "\"" + canary, "!!float '" + canary + "'",
		"[" + canary + "]", "{" + canary + ": x, " + canary + ": y}", "!!binary '" + canary + "?'",
	} {
		data := replace("|\n      - objectName: db\n        path: db/password", value)
		_, err := class.Parse([]byte(data))
		if err == nil || strings.Contains(err.Error(), canary) {
			t.Errorf("Parse(%q): error %v, want one without the value", data, err)
		}
	}
}

func TestParseKeepsTheValidOnes(t *testing.T) {
	data := manifest + "---\nx: [\n---\n" + replace("provider: file", "provider: []") + "---\n" + replace("app", "web")
	data = strings.Replace(data, "name: app\n", "name: first\n", 1)
	got, err := class.Parse([]byte(data))
	if diff := cmp.Diff([]*class.Class{named("shop", "first"), named("shop", "web")}, got, ignoreRevision); diff != "" {
		t.Errorf("Parse (-want +got):\n%s", diff)
	}
	for _, want := range []string{"document 2: ", "class shop/app in document 3: "} {
		if !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("Parse: error %v, want %q in it", err, want)
		}
	}
}

func TestRevision(t *testing.T) {
	revision := func(data string) string {
		t.Helper()
		got, err := class.Parse([]byte(data))
		if err != nil || len(got) != 1 {
			t.Fatalf("Parse(%q) = %v, %v, want one class", data, got, err)
		}
		return got[0].Revision
	}
	base := revision(manifest)
	same := map[string]string{
		"comments":         "# new\n" + manifest,
		"labels":           replace("team: a", "team: b"),
		"secretObjects":    replace("Opaque", "other"),
		"order and quotes": "spec: {parameters: {'objects': \"- objectName: db\\n  path: db/password\\n\"}, 'provider': \"file\"}\n" + manifest[:strings.Index(manifest, "spec:")],
	}
	for name, data := range same {
		if got := revision(data); got != base {
			t.Errorf("other %s: revision %s, want %s as before", name, got, base)
		}
	}
	different := map[string]string{
		"provider":   replace("provider: file", "provider: vault"),
		"parameter":  replace("db/password", "db/other"),
		"more":       replace("  parameters:\n", "  parameters:\n    x: \"\"\n"),
		"class name": replace("app", "web"),
	}
	for name, data := range different {
		if got := revision(data); got == base {
			t.Errorf("other %s: revision %s as before, want another", name, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(manifest))
	f.Add([]byte(manifest + "---\n" + manifest))
	f.Add([]byte("%YAML 1.1\n---\nkind: List\nitems: [{kind: SecretProviderClass}]\n..."))
	f.Add([]byte(`{"kind":"SecretProviderClass","apiVersion":"secrets-store.csi.x-k8s.io/v1","metadata":{"name":"a"},"spec":{"provider":"p","parameters":{"a":1}}}`))
	f.Add([]byte("a: &a [*a]\n--- |\n x\n<<: [*b]\n"))
	f.Add([]byte("\ufeff\x00\xff{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		classes, err := class.Parse(data)
		if err != nil && !errors.Is(err, class.ErrInvalid) {
			t.Errorf("error %v, want ErrInvalid", err)
		}
		seen := make(map[class.Name]bool)
		for _, c := range classes {
			if seen[c.Name] || c.Name.Name == "" || c.Name.Namespace == "" || c.Provider == "" || c.Revision == "" {
				t.Errorf("class %+v is incomplete or not the only one of its name", c)
			}
			seen[c.Name] = true
		}
		again, _ := class.Parse(data)
		if diff := cmp.Diff(classes, again); diff != "" {
			t.Errorf("a second Parse differs:\n%s", diff)
		}
	})
}
