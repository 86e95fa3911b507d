// Package crash kills a real driver process at random moments of publish,
// rotation and unpublish, starts it again, and checks that nothing is lost
// and nothing is left.
package crash

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/mount-utils"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/pkg/tmpfs/userns"
)

func TestMain(m *testing.M) { os.Exit(userns.Main(m)) }

const (
	volumes      = 6
	filesEach    = 4
	defaultRound = 25
)

// rounds is KILL_ROUNDS, or a number that keeps `make test` short.
func rounds(t *testing.T) int {
	text := os.Getenv("KILL_ROUNDS")
	if text == "" {
		return defaultRound
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("KILL_ROUNDS is %q, want a number", text)
	}
	return n
}

func TestNothingIsLostOrLeftWhenTheDriverIsKilled(t *testing.T) {
	n := newNode(t)
	total := rounds(t)
	for round := range total {
		n.start()
		n.settle()
		n.work(time.Duration(2+mathrand.IntN(80)) * time.Millisecond)
		n.mustBeWhole(round)
	}
	n.start()
	n.settle()
	n.removeAll()
	n.stop(syscall.SIGTERM)
	n.mustBeEmpty()
	if strings.Contains(n.logs.String(), n.canary) {
		t.Error("a secret is in the driver's log")
	}
	if n.rotations == 0 || n.cut["publish"] == 0 || n.cut["unpublish"] == 0 {
		t.Error("the rounds did not meet publish, unpublish and rotation")
	}
	t.Logf("%d kills: %d publishes and %d unpublishes were cut short, %d volumes were seen with a new secret", total, n.cut["publish"], n.cut["unpublish"], n.rotations)
}

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
	canary string
	store  *providertest.Fake
	logs   bytes.Buffer

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
		t: t, dir: t.TempDir(), canary: rand.Text(), store: &providertest.Fake{},
		stamps: map[string]bool{}, cut: map[string]int{},
	}
	n.binary = filepath.Join(n.dir, "keymount-driver")
	if out, err := exec.Command("go", "build", "-o", n.binary, "github.com/keymount/keymount/cmd/keymount-driver").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	n.turn()
	n.writeClass()
	n.serveProvider()
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

func (n *node) serveProvider() {
	dir := filepath.Join(n.dir, "providers")
	if err := os.Mkdir(dir, 0o755); err != nil {
		n.t.Fatal(err)
	}
	lis, err := net.Listen("unix", filepath.Join(dir, "fake.sock"))
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- plugin.Serve(ctx, lis, n.store, nil) }()
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
	n.process = exec.Command(n.binary,
		"--nodeid=n", "--endpoint=unix://"+socket, "--metrics-addr=", "--tmpfs-size=1Mi", "-v=10",
		"--class-dir="+filepath.Join(n.dir, "classes"), "--state-dir="+filepath.Join(n.dir, "state"),
		"--provider-volume="+filepath.Join(n.dir, "providers"), "--additional-provider-volume-paths=")
	n.process.Stderr = &n.logs
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
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	defer cancel()
	if _, err := csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true)); err != nil {
		n.t.Fatalf("the driver does not answer: %v\n%s", err, n.logs.String())
	}
}

func (n *node) stop(signal syscall.Signal) {
	n.t.Helper()
	_ = n.process.Process.Signal(signal)
	err := n.process.Wait()
	_ = n.conn.Close()
	if signal == syscall.SIGTERM && err != nil {
		n.t.Errorf("the driver did not stop cleanly: %v\n%s", err, n.logs.String())
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
			n.t.Fatalf("volume %d after a restart: %v\n%s", i, err, n.logs.String())
		}
	}
}

// work publishes, unpublishes and rotates until the driver is killed after d.
func (n *node) work(d time.Duration) {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	var busy sync.WaitGroup
	for i := range volumes {
		busy.Go(func() { n.churn(ctx, i) })
	}
	busy.Go(func() {
		for ctx.Err() == nil {
			n.turn()
			pause(ctx, 3*time.Millisecond)
		}
	})
	pause(ctx, d)
	n.stop(syscall.SIGKILL)
	cancel()
	busy.Wait()
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

// mustBeWhole checks what the dead driver left: a published volume shows one
// whole generation, an unpublished one shows nothing.
func (n *node) mustBeWhole(round int) {
	n.t.Helper()
	mounts := n.mounts()
	for i, s := range n.states {
		target := n.target(i)
		switch s {
		case absent:
			if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) || mounts[target] != 0 {
				n.t.Errorf("round %d: unpublished volume %d is left: %v, %d mounts", round, i, err, mounts[target])
			}
		case published:
			if mounts[target] != 1 {
				n.t.Errorf("round %d: published volume %d has %d mounts", round, i, mounts[target])
			}
			n.mustShowOneGeneration(round, i)
		case publishing:
			n.cut["publish"]++
		case removing:
			n.cut["unpublish"]++
		}
	}
}

func (n *node) mustShowOneGeneration(round, i int) {
	n.t.Helper()
	seen := map[string]int{}
	for f := range filesEach {
		content, err := os.ReadFile(filepath.Join(n.target(i), fmt.Sprintf("dir%d/file%d", f%2, f)))
		if err != nil {
			n.t.Errorf("round %d: volume %d: %v", round, i, err)
			return
		}
		seen[string(content)]++
	}
	for stamp := range seen {
		if len(seen) != 1 || !n.stamps[stamp] {
			n.t.Errorf("round %d: volume %d shows %d generations at once", round, i, len(seen))
		}
		if n.shown[i] != "" && n.shown[i] != stamp {
			n.rotations++
		}
		n.shown[i] = stamp
	}
}

// mounts counts the mounts at each target.
func (n *node) mounts() map[string]int {
	n.t.Helper()
	table, err := mount.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		n.t.Fatal(err)
	}
	found := map[string]int{}
	for _, m := range table {
		if strings.HasPrefix(m.MountPoint, n.dir+"/") {
			found[m.MountPoint]++
		}
	}
	return found
}

func (n *node) removeAll() {
	n.t.Helper()
	for i := range volumes {
		if err := n.unpublish(n.t.Context(), i); err != nil {
			n.t.Errorf("unpublish %d: %v", i, err)
		}
	}
}

func (n *node) mustBeEmpty() {
	n.t.Helper()
	if mounts := n.mounts(); len(mounts) != 0 {
		n.t.Errorf("mounts are left: %v", mounts)
	}
	for i := range volumes {
		if _, err := os.Lstat(n.target(i)); !errors.Is(err, fs.ErrNotExist) {
			n.t.Errorf("target %d is left: %v", i, err)
		}
	}
	records, err := filepath.Glob(filepath.Join(n.dir, "state", "volumes", "*.json"))
	if err != nil || len(records) != 0 {
		n.t.Errorf("records are left: %v, %v", records, err)
	}
}
