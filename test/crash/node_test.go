package crash

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/providertest"
)

// patience is how long anything may take that happens by itself.
const patience = 20 * time.Second

// A state is what a caller of the driver knows about a volume.
type state int

const (
	absent     state = iota // unpublish has returned
	published               // publish has returned
	publishing              // publish was called and cut short
	removing                // unpublish was called and cut short
)

// A node is a machine with one driver, one provider, and some volumes.
type node struct {
	t      *testing.T
	binary string
	dir    string
	bare   string // dir once more, without what is mounted in it
	canary string
	store  *providertest.Fake
	log    *os.File // of all drivers, in dir
	flags  []string // of drivers, besides those that all have

	process *exec.Cmd
	conn    *grpc.ClientConn

	mu        sync.Mutex
	states    [volumes]state
	stamps    map[string]bool // every value that the store ever held
	cut       map[string]int
	shown     [volumes]string // what each volume showed when it was looked at last
	rotations int
}

func newNode(t *testing.T) *node {
	n := &node{
		t: t, dir: t.TempDir(), bare: t.TempDir(), canary: rand.Text(), store: &providertest.Fake{},
		stamps: map[string]bool{}, cut: map[string]int{},
	}
	n.binary = filepath.Join(t.TempDir(), "keymount-driver")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", n.binary, "github.com/keymount/keymount/cmd/keymount-driver").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := unix.Mount(n.dir, n.bare, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(n.bare, 0); err != nil {
			t.Error(err)
		}
	})
	log, err := os.Create(filepath.Join(n.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	n.log = log
	t.Cleanup(func() { _ = log.Close() })
	n.turn()
	n.writeClass()
	if err := os.Mkdir(filepath.Join(n.dir, "providers"), 0o755); err != nil {
		t.Fatal(err)
	}
	n.serve("fake", n.store)
	t.Cleanup(func() {
		if n.process != nil {
			n.stop(syscall.SIGKILL)
		}
	})
	return n
}

// turn gives the secret a new value. All files of a volume show the same one.
func (n *node) turn() {
	stamp := n.canary + rand.Text()
	n.mu.Lock()
	n.stamps[stamp] = true
	n.mu.Unlock()
	n.store.Put("secret", []byte(stamp))
}

func (n *node) writeClass() {
	var objects []providertest.Object
	for i := range filesEach {
		objects = append(objects, providertest.Object{Name: "secret", File: fmt.Sprintf("dir%d/file%d", i%2, i)})
	}
	text := strings.ReplaceAll("\n"+n.store.Request(objects...).Parameters["objects"], "\n", "\n      ")
	manifest := `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: c, namespace: ns}
spec:
  provider: fake
  parameters:
    rotationInterval: 1s
    objects: |` + text + "\n"
	dir := filepath.Join(n.dir, "classes")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "c.yaml"), []byte(manifest), 0o644)); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) serve(name string, p provider.Provider) {
	lis, err := net.Listen("unix", filepath.Join(n.dir, "providers", name+".sock"))
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- plugin.Serve(ctx, lis, p, nil) }()
	n.t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			n.t.Errorf("provider: %v", err)
		}
	})
}

// start starts the driver and waits until it answers.
func (n *node) start() {
	n.t.Helper()
	socket := filepath.Join(n.dir, "csi.sock")
	n.process = exec.Command(n.binary, append(n.flags,
		"--nodeid=n", "--kubelet-root=", "--endpoint=unix://"+socket, "--metrics-addr=", "--tmpfs-size=8Mi", "-v=10",
		"--class-dir="+filepath.Join(n.dir, "classes"), "--state-dir="+filepath.Join(n.dir, "state"),
		"--provider-volume="+filepath.Join(n.dir, "providers"), "--additional-provider-volume-paths=")...)
	n.process.Stderr = n.log
	if err := n.process.Start(); err != nil {
		n.t.Fatal(err)
	}
	soon := backoff.Config{BaseDelay: 2 * time.Millisecond, Multiplier: 1.5, MaxDelay: 50 * time.Millisecond}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: time.Second}))
	if err != nil {
		n.t.Fatal(err)
	}
	n.conn = conn
	ctx, cancel := context.WithTimeout(n.t.Context(), patience)
	defer cancel()
	if _, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true)); err != nil {
		n.t.Fatalf("the driver does not answer: %v\n%s", err, n.logged())
	}
}

// logged returns what all drivers have logged.
func (n *node) logged() string {
	text, err := os.ReadFile(n.log.Name())
	if err != nil {
		n.t.Error(err)
	}
	return string(text)
}

func (n *node) stop(signal syscall.Signal) {
	n.t.Helper()
	_ = n.process.Process.Signal(signal)
	err := n.process.Wait()
	_ = n.conn.Close()
	if signal == syscall.SIGTERM && err != nil {
		n.t.Errorf("the driver did not stop cleanly: %v\n%s", err, n.logged())
	}
	n.process = nil
}

func (n *node) target(i int) string {
	return filepath.Join(n.dir, "pods", fmt.Sprint(i), "mount")
}

func (n *node) publish(ctx context.Context, i int) error {
	_, err := csi.NewNodeClient(n.conn).NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: fmt.Sprint("v", i), TargetPath: n.target(i), Readonly: true,
		VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
		VolumeContext: map[string]string{
			"secretProviderClass": "c", "csi.storage.k8s.io/ephemeral": "true",
			"csi.storage.k8s.io/pod.namespace": "ns", "csi.storage.k8s.io/pod.name": fmt.Sprint("p", i), "csi.storage.k8s.io/pod.uid": fmt.Sprint("u", i),
		},
	})
	return err
}

func (n *node) unpublish(ctx context.Context, i int) error {
	_, err := csi.NewNodeClient(n.conn).NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: fmt.Sprint("v", i), TargetPath: n.target(i)})
	return err
}

// settle repeats, as kubelet does, the calls that were cut short; what was
// published is published again, which must change nothing.
func (n *node) settle() {
	n.t.Helper()
	for i, s := range n.states {
		var err error
		switch s {
		case removing:
			if err = n.unpublish(n.t.Context(), i); err == nil {
				n.states[i] = absent
			}
		case publishing, published:
			if err = n.publish(n.t.Context(), i); err == nil {
				n.states[i] = published
			}
		case absent:
		}
		if err != nil {
			n.t.Fatalf("volume %d after a restart: %v\n%s", i, err, n.logged())
		}
	}
}

// work changes the secret, publishes and unpublishes so many of the volumes,
// and kills the driver when moment returns.
func (n *node) work(moment func(context.Context), churning int) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	var busy sync.WaitGroup
	for i := range churning {
		busy.Go(func() { n.churn(ctx, i) })
	}
	busy.Go(func() {
		for ctx.Err() == nil {
			n.turn()
			pause(ctx, 3*time.Millisecond)
		}
	})
	moment(ctx)
	n.stop(syscall.SIGKILL)
	cancel()
	busy.Wait()
}

// publishAll publishes what is absent.
func (n *node) publishAll() {
	n.t.Helper()
	for i, s := range n.states {
		if s != absent {
			continue
		}
		if err := n.publish(n.t.Context(), i); err != nil {
			n.t.Fatalf("publish volume %d: %v\n%s", i, err, n.logged())
		}
		n.states[i] = published
	}
}

// rotation waits until the driver makes a new generation in a volume.
func (n *node) rotation(ctx context.Context) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		n.t.Fatal(err)
	}
	defer watcher.Close()
	for i := range volumes {
		if err := watcher.Add(n.target(i)); err != nil {
			n.t.Fatal(err)
		}
	}
	timeout := time.After(patience)
	for {
		select {
		case event := <-watcher.Events:
			if event.Has(fsnotify.Create) {
				return
			}
		case <-timeout:
			n.t.Fatalf("no volume rotated within %v\n%s", patience, n.logged())
		case <-ctx.Done():
			return
		}
	}
}

// churn publishes and unpublishes volume i until a call is cut short.
func (n *node) churn(ctx context.Context, i int) {
	for ctx.Err() == nil {
		n.mu.Lock()
		s := n.states[i]
		n.mu.Unlock()
		var err error
		if s == absent {
			n.set(i, publishing)
			if err = n.publish(ctx, i); err == nil {
				n.set(i, published)
			}
		} else if mathrand.IntN(3+30*(i%2)) == 0 { // every other volume lives long enough to rotate
			n.set(i, removing)
			if err = n.unpublish(ctx, i); err == nil {
				n.set(i, absent)
			}
		}
		if err != nil {
			return
		}
		pause(ctx, time.Duration(mathrand.IntN(4000))*time.Microsecond)
	}
}

func (n *node) set(i int, s state) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.states[i] = s
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
