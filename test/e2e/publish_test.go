package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

var publishing = []scenario{
	{"the custom resources and the roles of upstream are there", false, objectsAreThere},
	{"a pod has its secrets byte for byte, and they vanish with it", false, podHasItsSecrets},
	{"a class of v1alpha1 works", false, oldClassWorks},
	{"the file provider of the chart serves a pod", true, fileProviderWorks},
	{"a class of another namespace is another class", false, classesAreNamespaced},
	{"a missing class is named in the pod's events, and found once it is there", false, missingClassIsTold},
	{"two classes in one pod are two volumes", false, twoClasses},
	{"two volumes of one class in a pod have a status each", false, oneClassTwice},
	{"names beyond every limit still have a status", false, longNames},
	{"the provider gets a token for every audience, and the usual authority", false, providerGetsTokens},
	{"fsGroup lets a user who is not root read, and nobody else", false, fsGroup},
	{"the metrics have the names of upstream", false, metricsAreThere},
}

func objectsAreThere(t *testing.T, s *suite) {
	for _, args := range [][]string{
		{"crd/secretproviderclasses.secrets-store.csi.x-k8s.io"}, {"crd/secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io"},
		{"clusterrole/secretproviderclasses-role"}, {"clusterrole/secretproviderclasses-admin-role"}, {"clusterrole/secretproviderclasses-viewer-role"},
		{"clusterrole/secretproviderclasspodstatuses-viewer-role"}, {"clusterrolebinding/secretproviderclasses-rolebinding"},
	} {
		if _, err := s.kubectl(t.Context(), "", append([]string{"get"}, args...)...); err != nil {
			t.Error(err)
		}
	}
	out, err := s.kubectl(t.Context(), "", "wait", "--for=condition=Established", "crd/secretproviderclasses.secrets-store.csi.x-k8s.io",
		"crd/secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io", "--timeout=10s")
	if err != nil {
		t.Error(out, err)
	}
}

func podHasItsSecrets(t *testing.T, s *suite) {
	ns, began := s.namespace(t), time.Now()
	foo, key := s.canary(), "line one\n"+s.canary()+"\n\n\ttabbed "+s.canary()+"\n"
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo, "fookey": key}})
	s.apply(t, ns, class("c", "foo", "fookey"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	s.sees(t, ns, "app", "/secrets/c/foo", foo)
	s.sees(t, ns, "app", "/secrets/c/fookey", key)
	if mode, err := s.modeOf(t, ns, "app", "/secrets/c/foo"); err != nil || mode != "644 0 0" {
		t.Errorf("mode, user and group = %q, %v; want 644 0 0, since the provider chooses none", mode, err)
	}
	status := s.status(t, ns, "app-"+ns+"-c")
	for _, c := range []struct {
		field []string
		want  any
	}{
		{[]string{"status", "podName"}, "app"},
		{[]string{"status", "secretProviderClassName"}, "c"},
		{[]string{"status", "mounted"}, true},
		{[]string{"status", "classGeneration"}, int64(1)},
	} {
		if got, _, _ := unstructured.NestedFieldCopy(status.Object, c.field...); got != c.want {
			t.Errorf("%v = %v, want %v", c.field, got, c.want)
		}
	}
	if owners := status.GetOwnerReferences(); len(owners) != 1 || owners[0].Kind != "Pod" || owners[0].Name != "app" {
		t.Errorf("the status is owned by %v, want its pod", owners)
	}
	if got := conditions(status); got["Ready"] != "True Published" || got["Stale"] != "False Fresh" {
		t.Errorf("conditions = %v", got)
	}
	if took := s.remove(t, ns, "app"); took.Seconds() > 60 {
		t.Errorf("deleting the pod took %v", took)
	}
	s.noMountIsLeft(t)
	s.eventually(t, "the status is gone", func(ctx context.Context) error {
		out, err := s.kubectl(ctx, "", "get", "secretproviderclasspodstatuses", "-n", ns, "-o", "name")
		if err == nil && out != "" {
			err = fmt.Errorf("there is %s", out)
		}
		return err
	})
	s.noErrorSince(t, began)
}

// noErrorSince checks that the driver has logged no error.
func (s *suite) noErrorSince(t *testing.T, began time.Time) {
	t.Helper()
	pods, err := s.driverPods(t.Context())
	if err != nil || len(pods) == 0 {
		t.Fatal(len(pods), err)
	}
	for _, p := range pods {
		log, err := s.api.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{
			Container: "driver", SinceTime: &metav1.Time{Time: began},
		}).DoRaw(t.Context())
		if err != nil || len(log) == 0 {
			t.Errorf("log of the driver: %d bytes, %v", len(log), err)
		}
		for line := range strings.Lines(string(log)) {
			if strings.HasPrefix(line, "E") {
				t.Errorf("the driver logs %s", line)
			}
		}
	}
}

// modeOf returns mode, user and group of a file as the pod sees it.
func (s *suite) modeOf(t *testing.T, ns, pod, path string) (string, error) {
	t.Helper()
	out, err := s.kubectl(t.Context(), "", "exec", "-n", ns, pod, "--", "stat", "-L", "-c", "%a %u %g", path)
	return strings.TrimSpace(out), err
}

// status waits for a status object.
func (s *suite) status(t *testing.T, namespace, name string) *unstructured.Unstructured {
	t.Helper()
	object := &unstructured.Unstructured{}
	s.eventually(t, "status "+name, func(ctx context.Context) error {
		out, err := s.kubectl(ctx, "", "get", "secretproviderclasspodstatus", "-n", namespace, name, "-o", "json")
		if err != nil {
			return err
		}
		return object.UnmarshalJSON([]byte(out))
	})
	return object
}

// conditions returns status and reason of each condition.
func conditions(object *unstructured.Unstructured) map[string]string {
	found := map[string]string{}
	list, _, _ := unstructured.NestedSlice(object.Object, "status", "conditions")
	for _, c := range list {
		if c, ok := c.(map[string]any); ok {
			found[fmt.Sprint(c["type"])] = fmt.Sprint(c["status"], " ", c["reason"])
		}
	}
	return found
}

func oldClassWorks(t *testing.T, s *suite) {
	ns := s.namespace(t)
	foo, key := s.canary(), "one\n"+s.canary()+"\n"
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo, "fookey": key}})
	s.apply(t, ns, strings.Replace(class("c", "foo", "fookey"), "k8s.io/v1", "k8s.io/v1alpha1", 1))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	s.sees(t, ns, "app", "/secrets/c/foo", foo)
	s.sees(t, ns, "app", "/secrets/c/fookey", key)
}

func fileProviderWorks(t *testing.T, s *suite) {
	ns := s.namespace(t)
	first, second := s.canary(), s.canary()
	s.put(t, ns, "db.env", "PASSWORD="+first+"\n")
	s.apply(t, ns, `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: files}
spec:
  provider: file
  parameters:
    objects: |
      - {objectName: password, path: db.env, key: PASSWORD, filePermission: "0400"}
`)
	s.start(t, ns, podSpec{name: "app", classes: []string{"files"}})
	s.sees(t, ns, "app", "/secrets/files/password", first)
	s.put(t, ns, "db.env", "PASSWORD="+second+"\n")
	s.sees(t, ns, "app", "/secrets/files/password", second)
}

func classesAreNamespaced(t *testing.T, s *suite) {
	broken, good := s.namespace(t), s.namespace(t)
	foo := s.canary()
	s.mock(t, good, answer{Objects: map[string]string{"foo": foo}})
	s.apply(t, broken, strings.Replace(class("same", "foo"), "provider: mock", "provider: nobody", 1))
	s.apply(t, good, class("same", "foo"))
	s.apply(t, broken, s.pod(podSpec{name: "app", classes: []string{"same"}}))
	s.start(t, good, podSpec{name: "app", classes: []string{"same"}})
	s.sees(t, good, "app", "/secrets/same/foo", foo)
	s.event(t, broken, "app", "PublishFailed", `provider "nobody"`)
	if err := s.ready(t.Context(), broken, "app"); err == nil {
		t.Error("the pod of the broken class is ready")
	}
}

func missingClassIsTold(t *testing.T, s *suite) {
	ns := s.namespace(t)
	foo := s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo}})
	s.apply(t, ns, s.pod(podSpec{name: "app", classes: []string{"late"}}))
	s.event(t, ns, "app", "FailedMount", "failed to get secretproviderclass "+ns+"/late.*not found")
	s.apply(t, ns, class("late", "foo"))
	s.awaitStart(t, ns, "app")
	s.sees(t, ns, "app", "/secrets/late/foo", foo)
}

func twoClasses(t *testing.T, s *suite) {
	ns := s.namespace(t)
	a, b := s.canary(), s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"a": a, "b": b}})
	s.apply(t, ns, class("one", "a"), class("two", "b"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"one", "two"}})
	s.sees(t, ns, "app", "/secrets/one/a", a)
	s.sees(t, ns, "app", "/secrets/two/b", b)
	s.status(t, ns, "app-"+ns+"-one")
	s.status(t, ns, "app-"+ns+"-two")
}

// statusTargets returns the target paths that status objects tell of.
func (s *suite) statusTargets(ctx context.Context, ns string) ([]string, error) {
	out, err := s.kubectl(ctx, "", "get", "secretproviderclasspodstatuses", "-n", ns, "-o", `jsonpath={range .items[*]}{.status.targetPath}{"\n"}{end}`)
	return slices.Compact(slices.Sorted(slices.Values(strings.Fields(out)))), err
}

func oneClassTwice(t *testing.T, s *suite) {
	ns := s.namespace(t)
	foo := s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo}})
	s.apply(t, ns, class("c", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c", "c"}})
	s.sees(t, ns, "app", "/secrets/c/foo", foo)
	s.sees(t, ns, "app", "/secrets/c-again/foo", foo)
	s.eventually(t, "each volume has a status", func(ctx context.Context) error {
		targets, err := s.statusTargets(ctx, ns)
		if err == nil && len(targets) != 2 {
			err = fmt.Errorf("status objects tell of %v", targets)
		}
		return err
	})
}

func longNames(t *testing.T, s *suite) {
	ns := s.namespace(t)
	foo := s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo}})
	long, name := strings.Repeat("c", 200), "p"+strings.Repeat("o", 60)
	s.apply(t, ns, class(long, "foo"))
	s.start(t, ns, podSpec{name: name, classes: []string{long}})
	s.eventually(t, "the volume has a status", func(ctx context.Context) error {
		targets, err := s.statusTargets(ctx, ns)
		if err == nil && len(targets) != 1 {
			err = fmt.Errorf("status objects tell of %v", targets)
		}
		return err
	})
}

func providerGetsTokens(t *testing.T, s *suite) {
	ns := s.namespace(t)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": s.canary()}})
	s.apply(t, ns, with(class("c", "foo"), `mine: "1"`))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	got := s.asked(t, ns)
	if diff := cmp.Diff([]string{"aud1", "aud2"}, got.Audiences); diff != "" {
		t.Errorf("audiences (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"localhost"}, got.Authority); diff != "" {
		t.Errorf(":authority (-want +got):\n%s", diff)
	}
	want := []string{
		"csi.storage.k8s.io/ephemeral", "csi.storage.k8s.io/pod.name", "csi.storage.k8s.io/pod.namespace", "csi.storage.k8s.io/pod.uid",
		"csi.storage.k8s.io/serviceAccount.name", "csi.storage.k8s.io/serviceAccount.tokens", "mine", "objects", "secretProviderClass",
	}
	if diff := cmp.Diff(want, got.Attributes); diff != "" {
		t.Errorf("attributes (-want +got):\n%s", diff)
	}
	if got.Permission != "420" {
		t.Errorf("permission = %q, want 420", got.Permission)
	}
}

func fsGroup(t *testing.T, s *suite) {
	ns := s.namespace(t)
	foo := s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo}})
	s.apply(t, ns, class("c", "foo"))
	s.start(t, ns, podSpec{
		name: "app", classes: []string{"c"}, security: "runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true",
		more: "  securityContext: {fsGroup: 2000}\n",
	})
	s.sees(t, ns, "app", "/secrets/c/foo", foo)
	if mode, err := s.modeOf(t, ns, "app", "/secrets/c/foo"); err != nil || mode != "640 0 2000" {
		t.Errorf("mode, user and group = %q, %v; want 640 0 2000", mode, err)
	}
	if !s.Local {
		return
	}
	// The same user without the group, who would get at it on the node.
	pod, err := s.api.CoreV1().Pods(ns).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/var/lib/kubelet/pods/%s/volumes/kubernetes.io~csi/v0/mount/foo", pod.UID)
	if err := readAs(t.Context(), path, 1000, 2000); err != nil {
		t.Errorf("the group may not read: %v", err)
	}
	if err := readAs(t.Context(), path, 1000, 3000); err == nil {
		t.Error("another group may read the file")
	}
}

func metricsAreThere(t *testing.T, s *suite) {
	pods, err := s.driverPods(t.Context())
	if err != nil || len(pods) == 0 {
		t.Fatal(len(pods), err)
	}
	var text string
	s.eventually(t, "metrics", func(ctx context.Context) error {
		body, err := s.api.CoreV1().RESTClient().Get().Namespace(system).Resource("pods").Name(pods[0].Name + ":8095").SubResource("proxy").Suffix("metrics").DoRaw(ctx)
		text = string(body)
		for _, name := range []string{"node_publish_total{", "node_unpublish_total{", "rotation_reconcile_total{"} {
			if err == nil && !strings.Contains(text, name) {
				err = fmt.Errorf("there is no %s", name)
			}
		}
		return err
	})
}
