package kube

import (
	"context"
	"encoding/json"
	stderrors "errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/managedfields/managedfieldstest"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"
)

// An applyAPI is a fakeAPI whose server-side apply is the API server's own,
// with the schema of the definition that the chart installs.
type applyAPI struct {
	*fakeAPI
	fields  *managedfields.FieldManager
	applied []applied
}

// applied is one request to apply.
type applied struct {
	path  string
	force bool
}

// newApplyStage returns a stage whose status objects have field managers.
func newApplyStage(t *testing.T) (*stage, *applyAPI) {
	t.Helper()
	s := newStage(t)
	a := &applyAPI{fakeAPI: s.fakeAPI, fields: managedfieldstest.NewFakeFieldManager(statusSchema(t), groupVersion.WithKind("SecretProviderClassPodStatus"))}
	server := httptest.NewServer(a)
	t.Cleanup(server.Close)
	var err error
	if s.client, err = newClient(&rest.Config{Host: server.URL, QPS: -1}); err != nil {
		t.Fatal(err)
	}
	return s, a
}

// statusSchema reads the chart's definition, and adds what the API server adds.
func statusSchema(t *testing.T) managedfields.TypeConverter {
	t.Helper()
	text, err := os.ReadFile("../../deploy/helm/keymount/files/crds/secretproviderclasspodstatuses.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var crd struct {
		Spec struct {
			Versions []struct {
				Schema struct {
					OpenAPIV3Schema object `json:"openAPIV3Schema"`
				} `json:"schema"`
			} `json:"versions"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(text, &crd); err != nil {
		t.Fatal(err)
	}
	schema := crd.Spec.Versions[0].Schema.OpenAPIV3Schema
	schema["x-kubernetes-group-version-kind"] = []object{{"group": groupVersion.Group, "version": groupVersion.Version, "kind": "SecretProviderClassPodStatus"}}
	schema["properties"].(object)["metadata"] = object{"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": object{
		"name": object{"type": "string"}, "namespace": object{"type": "string"},
		"labels": object{"type": "object", "additionalProperties": object{"type": "string"}},
		"ownerReferences": object{
			"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": []string{"uid"},
			"items": object{"type": "object", "properties": object{
				"apiVersion": object{"type": "string"}, "kind": object{"type": "string"}, "name": object{"type": "string"}, "uid": object{"type": "string"},
			}},
		},
	}}
	models, err := json.Marshal(object{"SecretProviderClassPodStatus": schema})
	if err != nil {
		t.Fatal(err)
	}
	converter, err := converterOf(managedfields.NewTypeConverter, models)
	if err != nil {
		t.Fatal(err)
	}
	return converter
}

// converterOf decodes models into whatever type the constructor takes.
func converterOf[T any](make func(T, bool) (managedfields.TypeConverter, error), models []byte) (managedfields.TypeConverter, error) {
	var decoded T
	if err := json.Unmarshal(models, &decoded); err != nil {
		return nil, err
	}
	return make(decoded, false)
}

// ServeHTTP implements http.Handler.
func (a *applyAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Content-Type") != "application/apply-patch+yaml" {
		a.fakeAPI.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	body, err := io.ReadAll(r.Body)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, "PATCH "+r.URL.Path)
	a.applied = append(a.applied, applied{r.URL.Path, r.URL.Query().Get("force") == "true"})
	var next object
	if err == nil {
		next, err = a.apply(r, body)
	}
	var conflict *errors.StatusError
	switch {
	case stderrors.As(err, &conflict):
		fail(w, int(conflict.ErrStatus.Code), string(conflict.ErrStatus.Reason))
	case err != nil:
		a.t.Errorf("apply: %v", err)
		fail(w, http.StatusBadRequest, "BadRequest")
	default:
		_ = json.NewEncoder(w).Encode(a.store(r.URL.Path, next))
	}
}

// apply returns the object as it is afterwards. It needs mu.
func (a *applyAPI) apply(r *http.Request, body []byte) (object, error) {
	live := a.objects[r.URL.Path]
	if live == nil {
		live = object{"apiVersion": groupVersion.String(), "kind": "SecretProviderClassPodStatus"}
	}
	text, err := json.Marshal(live)
	if err != nil {
		return nil, err
	}
	next, err := a.fields.Apply(unstructuredOf(a.t, text), unstructuredOf(a.t, body), r.URL.Query().Get("fieldManager"), r.URL.Query().Get("force") == "true")
	if err != nil {
		return nil, err
	}
	return next.(*unstructured.Unstructured).Object, nil
}

// wroteAs stores an object as a driver wrote it that knows no server-side apply.
func (a *applyAPI) wroteAs(manager, at string, o object) {
	a.t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		a.t.Fatal(err)
	}
	empty := &unstructured.Unstructured{Object: object{"apiVersion": groupVersion.String(), "kind": "SecretProviderClassPodStatus"}}
	next, err := a.fields.Update(empty, unstructuredOf(a.t, text), manager)
	if err != nil {
		a.t.Fatal(err)
	}
	a.put(at, next.(*unstructured.Unstructured).Object)
}

func unstructuredOf(t *testing.T, text []byte) *unstructured.Unstructured {
	t.Helper()
	o := &unstructured.Unstructured{}
	if err := o.UnmarshalJSON(text); err != nil {
		t.Fatal(err)
	}
	return o
}

// until returns a context that ends with done.
func until(done <-chan struct{}) context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-done; cancel() }()
	return ctx
}
