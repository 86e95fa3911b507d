package memory

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// volumes is how many there are. Those with an odd number take their secret
// from a JSON document.
const volumes = 20

// A node has a driver and a provider of local files, each a process.
type node struct {
	t                *testing.T
	dir              string
	driver, provider *exec.Cmd
	csi              csi.NodeClient
}

func newNode(t *testing.T) *node {
	n := &node{t: t, dir: t.TempDir()}
	for _, folder := range []string{"store/ns", "classes", "sockets"} {
		must(t, os.MkdirAll(filepath.Join(n.dir, folder), 0o755))
	}
	for i := range volumes {
		object := fmt.Sprintf("objectName: f, path: f%d", i)
		if i%2 == 1 {
			object += ".json, key: password"
		}
		must(t, os.WriteFile(filepath.Join(n.dir, "classes", fmt.Sprintf("c%d.yaml", i)), fmt.Appendf(nil, `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: c%d, namespace: ns}
spec: {provider: file, parameters: {objects: "- {%s}"}}
`, i, object), 0o644))
	}
	sockets, socket := filepath.Join(n.dir, "sockets"), filepath.Join(n.dir, "csi.sock")
	n.provider = run(t, "keymount-provider", "--providers=file", "--socket-dir="+sockets, "--file-root="+filepath.Join(n.dir, "store"))
	n.driver = run(t, "keymount-driver", "--nodeid=n", "--kubelet-root=", "--endpoint=unix://"+socket, "--metrics-addr=", "--audit-log="+filepath.Join(n.dir, "audit.jsonl"),
		"--class-dir="+filepath.Join(n.dir, "classes"), "--state-dir="+filepath.Join(n.dir, "state"),
		"--provider-volume="+sockets, "--additional-provider-volume-paths=")
	soon := backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1.5, MaxDelay: 100 * time.Millisecond}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)), grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: time.Second}))
	must(t, err)
	t.Cleanup(func() { must(t, conn.Close()) })
	n.csi = csi.NewNodeClient(conn)
	return n
}

// run builds a command as it is released, and runs it until the end of the test.
func run(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	binary := filepath.Join(t.TempDir(), name)
	build := exec.Command("go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", binary, "github.com/keymount/keymount/cmd/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOEXPERIMENT=runtimesecret")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", name, err, out)
	}
	log := &bytes.Buffer{}
	cmd := exec.Command(binary, args...)
	cmd.Stdout, cmd.Stderr = log, log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("%s ended with %v:\n%s", name, err, log)
		}
	})
	return cmd
}

// store gives a volume's secret a value.
func (n *node) store(i int, value string) {
	n.t.Helper()
	name := fmt.Sprint("f", i)
	if i%2 == 1 {
		name, value = name+".json", fmt.Sprintf(`{"user": "u", "password": %q}`, value)
	}
	file := filepath.Join(n.dir, "store/ns", name)
	must(n.t, os.WriteFile(file+".new", []byte(value), 0o600))
	must(n.t, os.Rename(file+".new", file))
}

func (n *node) target(i int) string { return filepath.Join(n.dir, "pods", fmt.Sprint(i), "mount") }

func (n *node) publish(i int) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	_, err := n.csi.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: fmt.Sprint("v", i), TargetPath: n.target(i), Readonly: true,
		VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
		VolumeContext: map[string]string{
			"secretProviderClass": fmt.Sprint("c", i), "csi.storage.k8s.io/pod.name": fmt.Sprint("p", i), "csi.storage.k8s.io/pod.namespace": "ns",
			"csi.storage.k8s.io/pod.uid": fmt.Sprint("u", i), "csi.storage.k8s.io/serviceAccount.name": "sa", "csi.storage.k8s.io/ephemeral": "true",
		},
	})
	must(n.t, err)
	n.t.Cleanup(func() { _ = unix.Unmount(n.target(i), 0) })
}

func (n *node) unpublish(i int) {
	n.t.Helper()
	_, err := n.csi.NodeUnpublishVolume(n.t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: fmt.Sprint("v", i), TargetPath: n.target(i)})
	must(n.t, err)
}

// shown returns what a pod sees.
func (n *node) shown(i int) string {
	n.t.Helper()
	text, err := os.ReadFile(filepath.Join(n.target(i), "f"))
	must(n.t, err)
	return string(text)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
