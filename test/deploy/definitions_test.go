package deploy

import (
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/kube"
)

// A definition is what the tests read of a CustomResourceDefinition.
type definition struct {
	Spec struct {
		Names      map[string]any    `json:"names"`
		Group      string            `json:"group"`
		Scope      string            `json:"scope"`
		Conversion map[string]string `json:"conversion"`
		Versions   []version         `json:"versions"`
	} `json:"spec"`
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   map[string]any `json:"metadata"`
}

type version struct {
	Name       string              `json:"name"`
	Served     bool                `json:"served"`
	Storage    bool                `json:"storage"`
	Deprecated bool                `json:"deprecated"`
	Warning    string              `json:"deprecationWarning"`
	Columns    []map[string]string `json:"additionalPrinterColumns"`
	Schema     struct {
		Root schema `json:"openAPIV3Schema"`
	} `json:"schema"`
}

// A schema is one field; what it does not name is what the definitions do not use.
type schema struct {
	Type        string            `json:"type"`
	Description string            `json:"description"`
	Format      string            `json:"format"`
	Properties  map[string]schema `json:"properties"`
	Items       *schema           `json:"items"`
	Values      *schema           `json:"additionalProperties"`
	Required    []string          `json:"required"`
	Enum        []string          `json:"enum"`
	Pattern     string            `json:"pattern"`
	MinLength   int               `json:"minLength"`
	MaxLength   int               `json:"maxLength"`
	Minimum     *int              `json:"minimum"`
	ListType    string            `json:"x-kubernetes-list-type"`
	ListKeys    []string          `json:"x-kubernetes-list-map-keys"`
	Rules       []struct {
		Rule, Message, Reason string
	} `json:"x-kubernetes-validations"`
}

// walk calls visit for each field, a list's element as [] and a map's value as {}.
func (s schema) walk(path string, visit func(path string, s schema)) {
	visit(path, s)
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		s.Properties[name].walk(strings.TrimPrefix(path+"."+name, "."), visit)
	}
	if s.Items != nil {
		s.Items.walk(path+"[]", visit)
	}
	if s.Values != nil {
		s.Values.walk(path+"{}", visit)
	}
}

// fields returns the types of all fields below the top ones that are named.
func (s schema) fields(tops ...string) map[string]string {
	found := map[string]string{}
	for _, top := range tops {
		s.Properties[top].walk(top, func(path string, s schema) { found[path] = s.Type })
	}
	return found
}

// definitions returns the definitions by kind.
func definitions(t *testing.T) map[string]definition {
	t.Helper()
	byKind := map[string]definition{}
	for _, o := range load(t, "deploy/manifests/crds.yaml") {
		d := decode[definition](t, o)
		byKind[d.Spec.Names["kind"].(string)] = *d
	}
	return byKind
}

// goFields adds the fields that a Go type has in JSON, as fields does.
func goFields(typ reflect.Type, path string, found map[string]string) {
	switch {
	case typ == reflect.TypeFor[metav1.Time]():
		found[path] = "string"
	case typ.Kind() == reflect.Pointer:
		goFields(typ.Elem(), path, found)
	case typ.Kind() == reflect.Slice:
		found[path] = "array"
		goFields(typ.Elem(), path+"[]", found)
	case typ.Kind() == reflect.Map:
		found[path] = "object"
		goFields(typ.Elem(), path+"{}", found)
	case typ.Kind() == reflect.Struct:
		found[path] = "object"
		for field := range typ.Fields() {
			name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
			goFields(field.Type, path+"."+name, found)
		}
	default:
		found[path] = map[reflect.Kind]string{reflect.String: "string", reflect.Bool: "boolean", reflect.Int64: "integer"}[typ.Kind()]
	}
}

func TestDefinitionsHaveTheFieldsOfTheDriver(t *testing.T) {
	for kind, test := range map[string]struct {
		top string
		typ reflect.Type
	}{
		"SecretProviderClass":          {"spec", reflect.TypeFor[kube.SecretProviderClassSpec]()},
		"SecretProviderClassPodStatus": {"status", reflect.TypeFor[kube.PodStatus]()},
	} {
		want := map[string]string{}
		goFields(test.typ, test.top, want)
		for _, v := range definitions(t)[kind].Spec.Versions {
			if diff := cmp.Diff(want, v.Schema.Root.fields(test.top)); diff != "" {
				t.Errorf("%s %s: -driver +definition\n%s", kind, v.Name, diff)
			}
		}
	}
}

// upstream is what the Secrets Store CSI driver 1.6 defines. Objects have it,
// so it never goes.
var upstream = map[string]string{
	"SecretProviderClass v1": `spec object, spec.parameters object, spec.parameters{} string, spec.provider string,
		spec.secretObjects array, spec.secretObjects[] object, spec.secretObjects[].annotations object, spec.secretObjects[].annotations{} string,
		spec.secretObjects[].data array, spec.secretObjects[].data[] object, spec.secretObjects[].data[].key string, spec.secretObjects[].data[].objectName string,
		spec.secretObjects[].labels object, spec.secretObjects[].labels{} string, spec.secretObjects[].secretName string, spec.secretObjects[].type string,
		status object`,
	"SecretProviderClass v1alpha1": `status object, status.byPod array, status.byPod[] object, status.byPod[].id string, status.byPod[].namespace string`,
	"SecretProviderClassPodStatus v1": `status object, status.mounted boolean, status.objects array, status.objects[] object, status.objects[].id string,
		status.objects[].version string, status.podName string, status.secretProviderClassName string, status.targetPath string`,
}

func TestDefinitionsKeepWhatExistingObjectsHave(t *testing.T) {
	for kind, d := range definitions(t) {
		for _, v := range d.Spec.Versions {
			got := v.Schema.Root.fields("spec", "status")
			for field := range strings.SplitSeq(upstream[kind+" v1"]+","+upstream[kind+" "+v.Name], ",") {
				path, want, _ := strings.Cut(strings.TrimSpace(field), " ")
				if got[path] != want {
					t.Errorf("%s %s: %s is %q, want %q", kind, v.Name, path, got[path], want)
				}
			}
		}
	}
}

// Each check that can refuse an object. One more needs a reason: an object
// that exists, and works, must stay valid.
func TestDefinitionsRefuseOnlyWhatCannotWork(t *testing.T) {
	want := map[string][]string{
		"SecretProviderClass": {
			"spec requires provider",
			"spec.parameters has a rule",
			"spec.provider has a pattern",
		},
		"SecretProviderClassPodStatus": {
			"status.conditions is a map list by [type]",
			"status.conditions[] requires type, status, reason, lastTransitionTime",
			"status.conditions[].lastTransitionTime is a date-time",
			"status.conditions[].message is bounded",
			"status.conditions[].observedGeneration is bounded",
			"status.conditions[].reason is bounded",
			"status.conditions[].status is one of 3",
			"status.conditions[].type is bounded",
			"status.lastRefreshTime is a date-time",
		},
	}
	for kind, d := range definitions(t) {
		for _, v := range d.Spec.Versions {
			var got []string
			v.Schema.Root.walk("", func(path string, s schema) { got = append(got, s.checks(path)...) })
			if diff := cmp.Diff(want[kind], got); diff != "" {
				t.Errorf("%s %s: -want +got\n%s", kind, v.Name, diff)
			}
		}
	}
}

// checks says what can refuse a value of the field, apart from its type.
func (s schema) checks(path string) (found []string) {
	say := func(is bool, format string, args ...any) {
		if is {
			found = append(found, path+" "+fmt.Sprintf(format, args...))
		}
	}
	say(len(s.Required) > 0, "requires %s", strings.Join(s.Required, ", "))
	say(len(s.Enum) > 0, "is one of %d", len(s.Enum))
	say(s.Pattern != "", "has a pattern")
	say(s.MinLength > 0 || s.MaxLength > 0 || s.Minimum != nil, "is bounded")
	say(s.Format == "date-time", "is a date-time")
	say(s.ListType != "", "is a %s list by %v", s.ListType, s.ListKeys)
	say(len(s.Rules) > 0, "has a rule")
	return found
}

// The pattern of the definition and the driver agree.
func TestTheProvidersNameIsWhatTheDriverTakes(t *testing.T) {
	for _, v := range definitions(t)["SecretProviderClass"].Spec.Versions {
		pattern := regexp.MustCompile(v.Schema.Root.Properties["spec"].Properties["provider"].Pattern)
		for _, name := range []string{"file", "A-b_9", strings.Repeat("x", 30), strings.Repeat("x", 31), "", "a/b", "a b", ".", "ä", "a\n"} {
			_, err := class.New(class.Class{Provider: name})
			if got := pattern.MatchString(name); got != (err == nil) {
				t.Errorf("%s: provider %q: the definition takes it: %v; the driver says %v", v.Name, name, got, err)
			}
		}
	}
}

func TestEveryFieldIsExplained(t *testing.T) {
	for kind, d := range definitions(t) {
		for _, v := range d.Spec.Versions {
			v.Schema.Root.walk("", func(path string, s schema) {
				if s.Description == "" && path != "metadata" && (s.Type == "object" || !strings.HasSuffix(path, "]") && !strings.HasSuffix(path, "}")) {
					t.Errorf("%s %s: kubectl explain has nothing to say of %q", kind, v.Name, path)
				}
			})
			if kind == "SecretProviderClass" && !strings.Contains(v.Schema.Root.Properties["spec"].Properties["parameters"].Description, class.RotationInterval) {
				t.Errorf("%s: %s is not explained", v.Name, class.RotationInterval)
			}
		}
	}
}

// Both versions are served and alike, v1 is stored, and nothing converts.
func TestVersionsOfTheDefinitions(t *testing.T) {
	columns := map[string]string{
		"SecretProviderClass":          "Provider, Age",
		"SecretProviderClassPodStatus": "Pod, Class, Ready, Stale, Last Refresh, Age",
	}
	for kind, d := range definitions(t) {
		if d.Spec.Group != group || d.Spec.Scope != "Namespaced" || d.Spec.Conversion["strategy"] != "None" || len(d.Spec.Versions) != 2 {
			t.Fatalf("%s: group, scope, conversion or number of versions is wrong: %+v", kind, d.Spec)
		}
		for _, v := range d.Spec.Versions {
			var names []string
			for _, c := range v.Columns {
				names = append(names, c["name"])
			}
			if got := strings.Join(names, ", "); got != columns[kind] {
				t.Errorf("%s %s: columns %s, want %s", kind, v.Name, got, columns[kind])
			}
			stored := v.Name == "v1"
			if !v.Served || v.Storage != stored || v.Deprecated == stored {
				t.Errorf("%s %s: served %v, stored %v, deprecated %v", kind, v.Name, v.Served, v.Storage, v.Deprecated)
			}
		}
	}
}
