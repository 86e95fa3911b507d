package deploy

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/kube"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/file"
)

const examples = "examples/kubernetes/"

// pods returns the pods of the examples, by the name of what makes them.
func pods(t *testing.T) map[string]corev1.PodSpec {
	t.Helper()
	found := map[string]corev1.PodSpec{}
	for _, name := range []string{"deployment.yaml", "sync.yaml"} {
		d := one[appsv1.Deployment](t, examples+name, "Deployment")
		if !cmp.Equal(d.Spec.Selector.MatchLabels, d.Spec.Template.Labels) {
			t.Errorf("%s: the selector is not that of the pods", name)
		}
		found[d.Namespace+"/"+d.Name] = d.Spec.Template.Spec
	}
	p := one[corev1.Pod](t, examples+"pod.yaml", "Pod")
	found[p.Namespace+"/"+p.Name] = p.Spec
	return found
}

// classes returns the classes of the examples by namespace and name.
func classes(t *testing.T) map[string]kube.SecretProviderClass {
	t.Helper()
	found := map[string]kube.SecretProviderClass{}
	for _, name := range []string{"class.yaml", "sync.yaml"} {
		c := one[kube.SecretProviderClass](t, examples+name, "SecretProviderClass")
		found[c.Namespace+"/"+c.Name] = *c
	}
	return found
}

// fetch asks the file provider for the files of a class, with the store that
// the README names, on behalf of the examples' account.
func fetch(t *testing.T, c kube.SecretProviderClass) (paths []string) {
	t.Helper()
	store, err := file.New(&file.Options{Root: filepath.Join(repository, "examples/file/store"), RequirePolicy: true})
	if err != nil {
		t.Fatal(err)
	}
	parameters := (&class.Class{Parameters: c.Spec.Parameters}).ProviderParameters()
	bundle, err := store.Fetch(t.Context(), &provider.Request{
		Parameters: parameters, Mode: 0o644,
		Pod: provider.Pod{Namespace: c.Namespace, Name: "example", ServiceAccount: one[corev1.ServiceAccount](t, examples+"namespace.yaml", "ServiceAccount").Name},
	})
	if err != nil {
		t.Fatalf("class %s: %v", c.Name, err)
	}
	for _, f := range bundle.Files {
		paths = append(paths, f.Path)
	}
	return paths
}

// A class is in the pod's namespace, and the commands read files that it gives.
func TestExamplesFindTheirFiles(t *testing.T) {
	known := classes(t)
	for name, pod := range pods(t) {
		namespace, _, _ := strings.Cut(name, "/")
		csi := pod.Volumes[0].CSI
		if csi.Driver != "secrets-store.csi.k8s.io" || csi.ReadOnly == nil || !*csi.ReadOnly {
			t.Errorf("%s: the volume is %+v", name, csi)
		}
		c, ok := known[namespace+"/"+csi.VolumeAttributes["secretProviderClass"]]
		if !ok {
			t.Fatalf("%s: there is no class %q", name, csi.VolumeAttributes["secretProviderClass"])
		}
		paths, mount := fetch(t, c), pod.Containers[0].VolumeMounts[0].MountPath
		for word := range strings.FieldsSeq(strings.Join(pod.Containers[0].Command, " ")) {
			if path, ok := strings.CutPrefix(word, mount+"/"); ok && !slices.Contains(paths, path) {
				t.Errorf("%s reads %s, the volume has %q", name, word, paths)
			}
		}
	}
}

// The Secret of the example has keys of files that there are, and the pod
// reads that Secret.
func TestTheExampleOfASecretBelongsTogether(t *testing.T) {
	for _, c := range classes(t) {
		paths := fetch(t, c)
		for _, secret := range c.Spec.SecretObjects {
			for _, d := range secret.Data {
				if !slices.Contains(paths, d.ObjectName) {
					t.Errorf("class %s: Secret %s wants %s, the volume has %q", c.Name, secret.SecretName, d.ObjectName, paths)
				}
			}
		}
	}
	secret := classes(t)["shop/shop-env"].Spec.SecretObjects[0]
	legacy := pods(t)["shop/legacy"].Containers[0]
	if got := legacy.EnvFrom[0].SecretRef.Name; got != secret.SecretName {
		t.Errorf("the pod reads the Secret %q, the class writes %q", got, secret.SecretName)
	}
	for _, d := range secret.Data {
		if !strings.Contains(strings.Join(legacy.Command, " "), `"$`+d.Key+`"`) {
			t.Errorf("the pod does not look for %s", d.Key)
		}
	}
}

// The namespace of the examples enforces the strictest Pod Security level.
func TestPodsOfTheExamplesAreRestricted(t *testing.T) {
	if got := one[corev1.Namespace](t, examples+"namespace.yaml", "Namespace").Labels["pod-security.kubernetes.io/enforce"]; got != "restricted" {
		t.Errorf("the namespace enforces %q", got)
	}
	want := &corev1.SecurityContext{AllowPrivilegeEscalation: ptr(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}
	for name, pod := range pods(t) {
		if s := pod.SecurityContext; s.RunAsNonRoot == nil || !*s.RunAsNonRoot || s.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: the pod's security context is %+v", name, s)
		}
		for _, c := range pod.Containers {
			if diff := cmp.Diff(want, c.SecurityContext); diff != "" {
				t.Errorf("%s: %s: -want +got\n%s", name, c.Name, diff)
			}
		}
	}
	if fsGroup := pods(t)["shop/worker"].SecurityContext.FSGroup; fsGroup == nil || *fsGroup != 2000 {
		t.Error("the Deployment does not show fsGroup 2000, which README.md names")
	}
}
