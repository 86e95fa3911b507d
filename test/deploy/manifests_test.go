package deploy

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	"sigs.k8s.io/yaml"

	"github.com/keymount/keymount/pkg/kube"
)

// repository is the top of the repository.
const repository = "../.."

// What is rendered from the chart, and what for.
const (
	standard   = "deploy/manifests/keymount.yaml"
	withSync   = "deploy/manifests/keymount-sync.yaml"
	everything = "test/deploy/testdata/everything.yaml" // every option
	plugins    = "test/deploy/testdata/plugins.yaml"    // no provider of our own
	stores     = "test/deploy/testdata/stores.yaml"     // providers of stores in the network
	aws        = "test/deploy/testdata/aws.yaml"        // a provider that looks things up in the cluster
	azure      = "test/deploy/testdata/azure.yaml"      // one that does not
	audited    = "test/deploy/testdata/audited.yaml"    // what examples/audited is about
)

var rendered = []string{standard, withSync, everything, plugins, stores, aws, azure, audited}

// An object is one document of a manifest.
type object struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	file string
	text []byte
}

// id returns the kind and the name.
func (o object) id() string { return o.Kind + " " + o.Metadata.Name }

// kinds are the objects that manifests may have, but for definitions of the
// custom resources and what the Prometheus operator defines.
var kinds = map[string]func() any{
	"v1 Namespace":                                      func() any { return new(corev1.Namespace) },
	"v1 Pod":                                            func() any { return new(corev1.Pod) },
	"v1 Service":                                        func() any { return new(corev1.Service) },
	"v1 ServiceAccount":                                 func() any { return new(corev1.ServiceAccount) },
	"apps/v1 DaemonSet":                                 func() any { return new(appsv1.DaemonSet) },
	"apps/v1 Deployment":                                func() any { return new(appsv1.Deployment) },
	"storage.k8s.io/v1 CSIDriver":                       func() any { return new(storagev1.CSIDriver) },
	"policy/v1 PodDisruptionBudget":                     func() any { return new(policyv1.PodDisruptionBudget) },
	"networking.k8s.io/v1 NetworkPolicy":                func() any { return new(networkingv1.NetworkPolicy) },
	"rbac.authorization.k8s.io/v1 ClusterRole":          func() any { return new(rbacv1.ClusterRole) },
	"rbac.authorization.k8s.io/v1 ClusterRoleBinding":   func() any { return new(rbacv1.ClusterRoleBinding) },
	"rbac.authorization.k8s.io/v1 RoleBinding":          func() any { return new(rbacv1.RoleBinding) },
	"secrets-store.csi.x-k8s.io/v1 SecretProviderClass": func() any { return new(kube.SecretProviderClass) },
	"apiextensions.k8s.io/v1 CustomResourceDefinition":  func() any { return new(map[string]any) },
	"monitoring.coreos.com/v1 ServiceMonitor":           func() any { return new(map[string]any) },
}

// load returns the objects of a file, named from the top of the repository.
func load(t *testing.T, file string) (objects []object) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, file))
	if err != nil {
		t.Fatal(err)
	}
	for doc := range strings.SplitSeq("\n"+string(text), "\n---\n") {
		o := object{file: file, text: []byte(doc)}
		if err := yaml.Unmarshal(o.text, &o); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if o.Kind != "" { // not a comment only
			objects = append(objects, o)
		}
	}
	if len(objects) == 0 {
		t.Fatalf("%s has no objects", file)
	}
	return objects
}

// decode returns the object as a T. A field that T does not have is an error.
func decode[T any](t *testing.T, o object) *T {
	t.Helper()
	into := new(T)
	if err := yaml.UnmarshalStrict(o.text, into); err != nil {
		t.Fatalf("%s: %s: %v", o.file, o.id(), err)
	}
	return into
}

// all returns the objects of a kind in a file.
func all[T any](t *testing.T, file, kind string) (found []*T) {
	t.Helper()
	for _, o := range load(t, file) {
		if o.Kind == kind {
			found = append(found, decode[T](t, o))
		}
	}
	return found
}

// one returns the only object of a kind in a file.
func one[T any](t *testing.T, file, kind string) *T {
	t.Helper()
	found := all[T](t, file, kind)
	if len(found) != 1 {
		t.Fatalf("%s has %d objects of kind %s, want one", file, len(found), kind)
	}
	return found[0]
}

func TestEveryManifestHasOnlyFieldsThatExist(t *testing.T) {
	examples, err := filepath.Glob(filepath.Join(repository, "examples/kubernetes/*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	files := append([]string{"deploy/manifests/crds.yaml"}, rendered...)
	for _, path := range examples {
		if filepath.Base(path) != "values.yaml" {
			files = append(files, strings.TrimPrefix(path, repository+"/"))
		}
	}
	seen := map[string]bool{}
	for _, file := range files {
		for _, o := range load(t, file) {
			make, known := kinds[o.APIVersion+" "+o.Kind]
			if !known {
				t.Errorf("%s: %s %s is of no kind that this test knows", file, o.APIVersion, o.id())
				continue
			}
			seen[o.APIVersion+" "+o.Kind] = true
			if err := yaml.UnmarshalStrict(o.text, make()); err != nil {
				t.Errorf("%s: %s: %v", file, o.id(), err)
			}
		}
	}
	if len(seen) != len(kinds) {
		t.Errorf("manifests have the kinds %q, want all of %q", slices.Sorted(maps.Keys(seen)), slices.Sorted(maps.Keys(kinds)))
	}
}

// required are the objects of every installation.
var required = []string{
	"CSIDriver secrets-store.csi.k8s.io",
	"ClusterRole secretproviderclasses-role",
	"ClusterRoleBinding secretproviderclasses-rolebinding",
}

func TestWhatIsInstalledIsWhatTheValuesAskFor(t *testing.T) {
	people := []string{
		"ClusterRole secretproviderclasses-admin-role",
		"ClusterRole secretproviderclasses-viewer-role",
		"ClusterRole secretproviderclasspodstatuses-viewer-role",
	}
	for file, want := range map[string][]string{
		standard: slices.Concat(required, people, []string{"DaemonSet keymount", "ServiceAccount keymount"}),
		withSync: slices.Concat(required, people, []string{"DaemonSet keymount", "ServiceAccount keymount",
			"ClusterRole secretprovidersyncing-role", "ClusterRoleBinding secretprovidersyncing-rolebinding"}),
		everything: slices.Concat(required, people, []string{"DaemonSet secrets", "ServiceAccount secrets-driver",
			"ClusterRole secretprovidersyncing-role", "RoleBinding secretprovidersyncing-rolebinding", "RoleBinding secretprovidersyncing-rolebinding",
			"ClusterRole secrets-mint-tokens", "ClusterRoleBinding secrets-mint-tokens",
			"ClusterRole secrets-lookups", "ClusterRoleBinding secrets-lookups",
			"ClusterRole secrets-startup-taint", "ClusterRoleBinding secrets-startup-taint",
			"PodDisruptionBudget secrets", "NetworkPolicy secrets", "Service secrets", "ServiceMonitor secrets"}),
		plugins: slices.Concat(required, []string{"DaemonSet keymount"}),
		stores:  slices.Concat(required, people, []string{"DaemonSet keymount", "ServiceAccount keymount"}),
		aws: slices.Concat(required, people, []string{"DaemonSet keymount", "ServiceAccount keymount",
			"ClusterRole keymount-lookups", "ClusterRoleBinding keymount-lookups", "NetworkPolicy keymount"}),
		azure: slices.Concat(required, people, []string{"DaemonSet keymount", "ServiceAccount keymount", "NetworkPolicy keymount"}),
		"deploy/manifests/crds.yaml": {"CustomResourceDefinition secretproviderclasses.secrets-store.csi.x-k8s.io",
			"CustomResourceDefinition secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io"},
	} {
		var got []string
		for _, o := range load(t, file) {
			got = append(got, o.id())
		}
		slices.Sort(got)
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", file, diff)
		}
	}
}
