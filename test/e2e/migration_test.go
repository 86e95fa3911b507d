package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

var migrations = []scenario{
	{"the documented example runs as its README says", true, exampleRuns},
	{"the rendered manifests install a driver that works", true, manifestsInstall},
	{"a running upstream driver is replaced, and its pods keep working", true, replacesUpstream},
	{"the way back: pods of ours keep working with the upstream driver", true, upstreamReplaces},
}

// uninstall removes the release, if there is one. The CRDs stay.
func (s *suite) uninstall(t testing.TB) {
	t.Helper()
	s.keepLogs(t)
	s.helm(t, "uninstall", "keymount", "--namespace", system, "--wait", "--ignore-not-found")
	s.driverIsGone(t)
}

// clear makes the cluster one that never had such a driver.
func (s *suite) clear(t testing.TB) {
	t.Helper()
	s.uninstall(t)
	if _, err := s.kubectl(t.Context(), "", "delete", "--wait", "crd/secretproviderclasses.secrets-store.csi.x-k8s.io", "crd/secretproviderclasspodstatuses.secrets-store.csi.x-k8s.io"); err != nil {
		t.Fatal(err)
	}
}

// driverIsGone waits until kubelet knows no driver of the name.
func (s *suite) driverIsGone(t testing.TB) {
	t.Helper()
	s.eventually(t, "no driver is registered", func(ctx context.Context) error {
		out, err := s.kubectl(ctx, "", "get", "csinodes", "-o", "jsonpath={.items[*].spec.drivers[*].name}")
		if err == nil && strings.Contains(out, driverName) {
			err = fmt.Errorf("there is %s", out)
		}
		return err
	})
}

// ourImage is the reference of the image in the rendered manifests.
var ourImage = regexp.MustCompile(`\bghcr\.io/keymount/keymount:\S+`)

// manifestsInstall applies the manifests as somebody without Helm does.
func manifestsInstall(t *testing.T, s *suite) {
	s.uninstall(t)
	ns := s.namespace(t)
	for _, name := range []string{"crds.yaml", "keymount.yaml", "keymount-sync.yaml"} {
		text, err := os.ReadFile(filepath.Join("../../deploy/manifests", name))
		if err != nil {
			t.Fatal(err)
		}
		s.apply(t, "kube-system", ourImage.ReplaceAllString(string(text), s.Images()["keymount"]))
		if name == "crds.yaml" {
			continue
		}
		s.awaitDriver(t)
		s.await(t, "kube-system", "daemonset/keymount")
		value, pod := s.canary(), strings.TrimSuffix(name, ".yaml")
		s.mock(t, ns, answer{Objects: map[string]string{"foo": value}})
		s.apply(t, ns, synced(with(class("c", "foo"), "rotationInterval: 3s"), "copy", "foo"))
		s.start(t, ns, podSpec{name: pod, classes: []string{"c"}})
		s.sees(t, ns, pod, "/secrets/c/foo", value)
		if pod == "keymount-sync" {
			s.secretIs(t, ns, "copy", value, 2) // the pod of before shares it now
		}
	}
	s.remove(t, ns, "keymount")
	s.remove(t, ns, "keymount-sync")
	s.noMountIsLeft(t)
	s.keepLogs(t)
	if _, err := s.kubectl(t.Context(), "", "delete", "-f", "../../deploy/manifests/keymount-sync.yaml", "--wait"); err != nil {
		t.Fatal(err)
	}
	s.driverIsGone(t)
	s.takeOver(t)
}

// takeOver installs the chart where another one has left its objects, as
// docs/migrate.md says.
func (s *suite) takeOver(t testing.TB, more ...string) {
	t.Helper()
	s.takeOverWith(t, settings(more...))
}

// takeOverWith installs the chart with these arguments of helm alone.
func (s *suite) takeOverWith(t testing.TB, settings []string) {
	t.Helper()
	args := []string{
		"upgrade", "--install", "keymount", chart, "--namespace", system, "--create-namespace",
		"--take-ownership", "--force-conflicts", "--wait", "--timeout", "3m",
	}
	s.helm(t, append(args, settings...)...)
	s.awaitDriver(t)
}

// replacesUpstream installs the upstream driver by its own manifests, moves to
// ours as docs/migrate.md says, and uses a pod of then, and its Secret.
func replacesUpstream(t *testing.T, s *suite) {
	ns := s.namespace(t)
	first, second := s.canary(), s.canary()
	s.clear(t)
	s.installUpstream(t, 5*time.Second, upstreamClasses, upstreamStatuses, "csidriver.yaml", "rbac-secretproviderclass.yaml", "rbac-secretprovidersyncing.yaml")
	s.mock(t, ns, answer{Objects: map[string]string{"foo": first}})
	s.apply(t, ns, synced(class("c", "foo"), "copy", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}, command: reading})
	s.sees(t, ns, "app", "/secrets/c/foo", first)
	s.secretIs(t, ns, "copy", first, 1)

	s.removeUpstream(t)
	s.takeOver(t, "syncSecrets.enabled=true")
	s.eventually(t, "the volume is taken over", func(context.Context) error {
		if got := conditions(s.status(t, ns, "app-"+ns+"-c")); got["Ready"] != "True Published" {
			return fmt.Errorf("its conditions are %v", got)
		}
		return nil
	})
	s.sees(t, ns, "app", "/secrets/c/foo", first)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": second}})
	s.sees(t, ns, "app", "/secrets/c/foo", second)
	s.secretIs(t, ns, "copy", second, 2) // upstream's owner is the status object, ours the pod
	s.alwaysRead(t, ns, "app")
	s.remove(t, ns, "app")
	s.secretIsGone(t, ns, "copy")
	s.noMountIsLeft(t)
}

// upstreamReplaces goes back as docs/migrate.md says, and forth again.
func upstreamReplaces(t *testing.T, s *suite) {
	s.takeOver(t)
	ns := s.namespace(t)
	first, second := s.canary(), s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": first}})
	s.apply(t, ns, class("c", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}, command: reading})
	s.uninstall(t)
	s.installUpstream(t, 5*time.Second, "csidriver.yaml", "rbac-secretproviderclass.yaml")
	s.sees(t, ns, "app", "/secrets/c/foo", first)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": second}})
	s.sees(t, ns, "app", "/secrets/c/foo", second)
	s.alwaysRead(t, ns, "app")
	s.remove(t, ns, "app")
	s.noMountIsLeft(t)
	s.removeUpstream(t)
	s.takeOver(t)
}

// upstreamVersion is the module of the driver that is replaced. Two of its
// manifests are custom resource definitions.
const (
	upstreamVersion  = "sigs.k8s.io/secrets-store-csi-driver@v1.6.0"
	upstreamClasses  = "secrets-store.csi.x-k8s.io_secretproviderclasses.yaml"
	upstreamStatuses = "secrets-store.csi.x-k8s.io_secretproviderclasspodstatuses.yaml"
)

// upstreamFolder returns a folder of the upstream module, which is in the
// module cache since its driver was built.
func upstreamFolder(t testing.TB, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), filepath.FromSlash(upstreamVersion), name)
	if _, err := os.Stat(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (s *suite) removeUpstream(t testing.TB) {
	t.Helper()
	if _, err := s.kubectl(t.Context(), "", "delete", "daemonset", "-n", "kube-system", "csi-secrets-store", "--wait"); err != nil {
		t.Fatal(err)
	}
	s.driverIsGone(t)
}

// installUpstream applies manifests that the upstream module has, and its
// DaemonSet with the images and the one sidecar that can be had here.
func (s *suite) installUpstream(t testing.TB, rotation time.Duration, manifests ...string) {
	t.Helper()
	for _, name := range manifests {
		text, err := os.ReadFile(filepath.Join(upstreamFolder(t, "deploy"), name))
		if err != nil {
			t.Fatal(err)
		}
		s.apply(t, "kube-system", string(text))
	}
	s.apply(t, "kube-system", fmt.Sprintf(`apiVersion: apps/v1
kind: DaemonSet
metadata: {name: csi-secrets-store}
spec:
  selector: {matchLabels: {app: csi-secrets-store}}
  template:
    metadata: {labels: {app: csi-secrets-store}}
    spec:
      serviceAccountName: secrets-store-csi-driver
      containers:
      - name: registrar
        image: %[1]s
        imagePullPolicy: Never
        command: [/registrar, --endpoint=/var/lib/kubelet/plugins/csi-secrets-store/csi.sock]
        volumeMounts: [{name: registration, mountPath: /registration}]
      - name: secrets-store
        image: %[1]s
        imagePullPolicy: Never
        command: [/secrets-store-csi-driver]
        args: ["--endpoint=unix:///csi/csi.sock", "--nodeid=$(KUBE_NODE_NAME)", "--provider-volume=%[2]s",
          "--enable-secret-rotation=true", "--rotation-poll-interval=%[3]s"]
        env: [{name: KUBE_NODE_NAME, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        securityContext: {privileged: true}
        volumeMounts:
        - {name: plugin, mountPath: /csi}
        - {name: pods, mountPath: /var/lib/kubelet/pods, mountPropagation: Bidirectional}
        - {name: providers, mountPath: %[2]s}
      volumes:
      - {name: plugin, hostPath: {path: /var/lib/kubelet/plugins/csi-secrets-store, type: DirectoryOrCreate}}
      - {name: registration, hostPath: {path: /var/lib/kubelet/plugins_registry, type: Directory}}
      - {name: pods, hostPath: {path: /var/lib/kubelet/pods, type: DirectoryOrCreate}}
      - {name: providers, hostPath: {path: %[2]s, type: DirectoryOrCreate}}
`, s.Images()["upstream"], providersDir, rotation))
	s.awaitDriver(t)
}

// await waits until all pods of an object such as "deployment/web" are those
// that it asks for, and ready.
func (s *suite) await(t testing.TB, ns, object string) {
	t.Helper()
	if out, err := s.kubectl(t.Context(), "", "rollout", "status", "-n", ns, object, "--timeout=2m"); err != nil {
		t.Fatal(out, err, s.describe(ns))
	}
}
