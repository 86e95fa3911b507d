package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// driverAccount is the driver as the API server knows it.
const driverAccount = "system:serviceaccount:" + system + ":keymount"

var rights = []scenario{
	{"with sync the driver may do what a golden says, and nothing else", false, rightsWithSync},
	{"without sync the driver may do what a golden says, and nothing else", false, rightsWithoutSync},
	{"a pod gets a token that kubelet does not bring only where the driver may make it", false, mintedToken},
	{"the startup taint goes once the driver is ready", false, startupTaint},
}

func rightsWithSync(t *testing.T, s *suite) {
	for _, object := range []string{"clusterrole/secretprovidersyncing-role", "clusterrolebinding/secretprovidersyncing-rolebinding"} {
		if _, err := s.kubectl(t.Context(), "", "get", object); err != nil {
			t.Error(err)
		}
	}
	s.may(t, append(slices.Clone(always), "pods: get", "secrets: create delete get update"))
}

func rightsWithoutSync(t *testing.T, s *suite) {
	s.install(t)
	s.may(t, always)
}

// always are the rights of the driver, of those that not everybody has.
var always = []string{
	"events: create patch",
	"secretproviderclasses.secrets-store.csi.x-k8s.io: get list watch",
	"secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io: create get list patch",
}

// may compares the rights of the driver with those that it should have.
func (s *suite) may(t *testing.T, want []string) {
	t.Helper()
	out, err := s.kubectl(t.Context(), "", "auth", "can-i", "--list", "-n", "default", "--as", driverAccount)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out) {
		fields := strings.Fields(line)
		verbs := line[strings.LastIndex(line, "[")+1:]
		switch {
		case len(fields) == 0 || fields[0] == "Resources" || strings.HasPrefix(fields[0], "["): // non-resource URLs
		case strings.HasPrefix(fields[0], "self"): // reviews that everybody may make of themselves
		default:
			sorted := strings.Fields(strings.TrimRight(strings.TrimSpace(verbs), "]"))
			slices.Sort(sorted)
			got = append(got, fmt.Sprintf("%s: %s", fields[0], strings.Join(sorted, " ")))
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rights of the driver (-want +got):\n%s\n%s", diff, out)
	}
}

func mintedToken(t *testing.T, s *suite) {
	ns, foo := s.namespace(t), s.canary()
	audience := "https://store.example"
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo}, Audience: &audience})
	s.apply(t, ns, class("c", "foo"), s.pod(podSpec{name: "app", classes: []string{"c"}}))
	s.event(t, ns, "app", "FailedMount", `there is no token of audience "https://store.example"`)
	s.install(t, "mintTokens.enabled=true")
	s.may(t, append(slices.Clone(always), "serviceaccounts/token: create"))
	s.awaitStart(t, ns, "app")
	s.sees(t, ns, "app", "/secrets/c/foo", foo)
	pod, err := s.api.CoreV1().Pods(ns).Get(t.Context(), "app", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	got := s.asked(t, ns)
	if diff := cmp.Diff([]string{"aud1", "aud2", audience}, got.Audiences); diff != "" || got.BoundTo != string(pod.UID) {
		t.Errorf("the token is bound to %q, want %q; audiences (-want +got):\n%s", got.BoundTo, pod.UID, diff)
	}
	s.install(t)
}

func startupTaint(t *testing.T, s *suite) {
	nodes, err := s.kubectl(t.Context(), "", "get", "nodes", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	node := strings.Fields(nodes)[0]
	if _, err := s.kubectl(t.Context(), "", "taint", "node", strings.TrimPrefix(node, "node/"), "keymount.io/agent-not-ready=:NoSchedule", "other=:PreferNoSchedule", "--overwrite"); err != nil {
		t.Fatal(err)
	}
	s.install(t, "startupTaint.remove=true", "terminationGracePeriodSeconds=31")
	s.eventually(t, "the taint is gone, and the other is not", func(ctx context.Context) error {
		out, err := s.kubectl(ctx, "", "get", node, "-o", "jsonpath={.spec.taints[*].key}")
		if err == nil && out != "other" {
			err = fmt.Errorf("taints: %s", out)
		}
		return err
	})
	if _, err := s.kubectl(t.Context(), "", "taint", "node", strings.TrimPrefix(node, "node/"), "other-"); err != nil {
		t.Fatal(err)
	}
	s.install(t)
}
