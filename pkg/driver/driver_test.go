package driver_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/driver"
	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/pkg/tmpfs"
	"github.com/keymount/keymount/pkg/tmpfs/userns"
	"github.com/keymount/keymount/pkg/volume"
)

func TestMain(m *testing.M) { os.Exit(userns.Main(m)) }

// patience is how long anything may take to happen.
const patience = 20 * time.Second

// A rig is a driver in this process, and a provider on a socket.
type rig struct {
	t      *testing.T
	dir    string
	store  *providertest.Fake
	config driver.Config
	driver *driver.Driver
	node   csi.NodeClient
	stop   func()
}

func newRig(t *testing.T, adjust func(*driver.Config)) *rig {
	t.Helper()
	// The first cleanup runs last, when everything has stopped.
	running := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, running) })
	r := &rig{t: t, dir: t.TempDir(), store: &providertest.Fake{}}
	r.store.Put("password", []byte("first"))
	for _, dir := range []string{"classes", "providers"} {
		if err := os.Mkdir(r.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.writeClass("24h")
	r.serveStore()
	r.config = driver.Defaults()
	r.config.NodeID, r.config.Endpoint, r.config.MetricsAddr = "n", "unix://"+r.path("csi.sock"), ""
	r.config.ClassDir, r.config.StateDir = r.path("classes"), r.path("state")
	r.config.ProviderDir, r.config.MoreProviders = r.path("providers"), ""
	if adjust != nil {
		adjust(&r.config)
	}
	r.start()
	t.Cleanup(func() {
		_ = r.unpublish("v")
		r.stop()
	})
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// writeClass replaces the manifest of the one class.
func (r *rig) writeClass(interval string) {
	r.t.Helper()
	objects := r.store.Request(providertest.Object{Name: "password"}).Parameters["objects"]
	manifest := fmt.Sprintf("apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: c, namespace: ns}\nspec:\n  provider: fake\n  parameters:\n    rotationInterval: %q\n    objects: %q\n", interval, objects)
	fresh := r.path("fresh")
	if err := errors.Join(os.WriteFile(fresh, []byte(manifest), 0o644), os.Rename(fresh, filepath.Join(r.path("classes"), "c.yaml"))); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) serveStore() {
	lis, err := net.Listen("unix", filepath.Join(r.path("providers"), "fake.sock"))
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- plugin.Serve(ctx, lis, r.store, nil) }()
	r.t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			r.t.Error(err)
		}
	})
}

func (r *rig) start() {
	r.t.Helper()
	var err error
	if r.driver, err = driver.New(r.config, nil); err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- r.driver.Run(ctx) }()
	soon := backoff.Config{BaseDelay: time.Millisecond, Multiplier: 2, MaxDelay: 50 * time.Millisecond}
	conn, err := grpc.NewClient(r.config.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: time.Second}))
	if err != nil {
		r.t.Fatal(err)
	}
	r.node = csi.NewNodeClient(conn)
	r.stop = sync.OnceFunc(func() {
		_ = conn.Close()
		cancel()
		if err := <-served; err != nil {
			r.t.Errorf("Run = %v, want a clean stop", err)
		}
	})
}

func (r *rig) publish(id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := r.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: id, TargetPath: r.target(id), Readonly: true,
		VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
		VolumeContext: map[string]string{
			"secretProviderClass": "c", "csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/serviceAccount.name": "sa",
			"csi.storage.k8s.io/pod.namespace": "ns", "csi.storage.k8s.io/pod.name": "p-" + id, "csi.storage.k8s.io/pod.uid": "u-" + id,
		},
	}, grpc.WaitForReady(true))
	return err
}

func (r *rig) mustPublish(id string) {
	r.t.Helper()
	if err := r.publish(id); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) unpublish(id string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := r.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: r.target(id)})
	return err
}

func (r *rig) target(id string) string { return filepath.Join(r.dir, "pods", id) }

// becomes waits until the volume shows the value.
func (r *rig) becomes(id, want string) {
	r.t.Helper()
	r.eventually("the volume shows "+want, func() bool {
		got, err := os.ReadFile(filepath.Join(r.target(id), "password"))
		return err == nil && string(got) == want
	})
}

func (r *rig) eventually(what string, holds func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); {
		if time.Now().After(deadline) {
			r.t.Fatalf("not within %v: %s", patience, what)
		}
		<-time.After(2 * time.Millisecond)
	}
}

func TestAChangeInTheStoreIsInThePodAtOnce(t *testing.T) {
	r := newRig(t, nil)
	r.mustPublish("v")
	r.becomes("v", "first")
	for i := range 5 {
		value := fmt.Sprint("value ", i)
		r.store.Put("password", []byte(value))
		r.becomes("v", value)
	}
}

func TestAChangedClassIsInThePodAtOnce(t *testing.T) {
	for _, before := range []string{"24h", "0"} {
		t.Run("an interval of "+before+" becomes 1s", func(t *testing.T) {
			r := newRig(t, nil)
			r.writeClass(before)
			r.mustPublish("v")
			r.writeClass("1s")
			r.eventually("the record has the new revision's due time", func() bool {
				rec, _ := r.driver.Volumes().Get("v")
				wait := time.Until(rec.Due)
				return !rec.Due.IsZero() && wait < 2*time.Second
			})
		})
	}
}

func TestAClassThatWantsNoRotationGetsNone(t *testing.T) {
	r := newRig(t, nil)
	r.mustPublish("v")
	r.writeClass("0")
	r.eventually("the volume is never due", func() bool {
		rec, _ := r.driver.Volumes().Get("v")
		return rec.Due.IsZero()
	})
	fetches := r.store.Fetches()
	r.store.Put("password", []byte("second"))
	r.mustPublish("v")
	if got := r.store.Fetches(); got != fetches {
		t.Errorf("%d more fetches, want none", got-fetches)
	}
	r.becomes("v", "first")
}

func TestRotationNeedsNoRepublish(t *testing.T) {
	r := newRig(t, nil)
	r.writeClass("1s")
	r.mustPublish("v")
	began := r.store.Fetches()
	r.eventually("three refreshes on the driver's own clock", func() bool { return r.store.Fetches() >= began+3 })
}

func TestVolumesOfOneIdentityShareAFetch(t *testing.T) {
	r := newRig(t, nil)
	r.store.Delay(50 * time.Millisecond)
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			if err := r.publish(fmt.Sprint("many-", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	// One for the burst; a second when watching begins, which makes them due.
	if got := r.store.Fetches(); got > 2 {
		t.Errorf("%d fetches for 20 volumes of one identity, want at most 2", got)
	}
	for i := range 20 {
		if err := r.unpublish(fmt.Sprint("many-", i)); err != nil {
			t.Error(err)
		}
	}
}

func TestARestartKeepsVolumesAndRotatesThem(t *testing.T) {
	r := newRig(t, nil)
	r.mustPublish("v")
	r.stop()
	r.becomes("v", "first") // the mount stays
	r.store.Put("password", []byte("second"))
	r.writeClass("1s")
	r.start()
	r.mustPublish("v")
	rec, ok := r.driver.Volumes().Get("v")
	if !ok {
		t.Fatal("the volume is forgotten")
	}
	r.store.Put("password", []byte("third"))
	r.becomes("v", "third")
	if now, _ := r.driver.Volumes().Get("v"); now.Mount != rec.Mount {
		t.Errorf("the mount is %d, was %d", now.Mount, rec.Mount)
	}
}

func TestAProviderThatComesBackIsUsedAgain(t *testing.T) {
	r := newRig(t, nil)
	r.store.Break()
	if err := r.publish("v"); status.Code(err) != codes.Unavailable {
		t.Fatalf("publish without a store = %v, want Unavailable", err)
	}
	if _, err := os.Lstat(r.target("v")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a failed publish left the target: %v", err)
	}
	r.store.Repair()
	r.mustPublish("v")
	r.becomes("v", "first")
}

func TestRotationCanBeTurnedOff(t *testing.T) {
	r := newRig(t, func(c *driver.Config) { c.Rotation = false })
	r.mustPublish("v")
	r.store.Put("password", []byte("second"))
	r.writeClass("1s")
	r.mustPublish("v")
	if rec, _ := r.driver.Volumes().Get("v"); r.store.Fetches() != 1 || !rec.Due.IsZero() {
		t.Errorf("%d fetches, due %v; want one, and never", r.store.Fetches(), rec.Due)
	}
	r.becomes("v", "first")
}

func TestProbeAndReadyzSayWhenTheDriverCannotWork(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_ = free.Close()
	r := newRig(t, func(c *driver.Config) { c.MetricsAddr = address })
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	ready := func() int {
		resp, err := client.Get("http://" + address + "/readyz")
		if err != nil {
			return 0
		}
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	r.eventually("/readyz says yes", func() bool { return ready() == http.StatusOK })
	if err := os.RemoveAll(r.config.StateDir); err != nil {
		t.Fatal(err)
	}
	if got := ready(); got != http.StatusServiceUnavailable {
		t.Errorf("/readyz without a state folder = %d, want 503", got)
	}
}

func TestNewRefusesWhatItCannotWorkWith(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, adjust := range map[string]func(*driver.Config){
		"an invalid configuration":         func(c *driver.Config) { c.NodeID = "" },
		"a state folder that cannot be":    func(c *driver.Config) { c.StateDir = file },
		"a class folder that is no folder": func(c *driver.Config) { c.ClassDir = file },
	} {
		t.Run(name, func(t *testing.T) {
			c := validConfig(t)
			c.StateDir = t.TempDir()
			adjust(&c)
			if _, err := driver.New(c, &driver.Options{Mounts: &tmpfs.Plain{}}); err == nil {
				t.Error("New made a driver")
			}
		})
	}
}

// The whole driver at the highest verbosity, through success and failure, and
// everything that it leaves on the disk.
func TestNoSecretIsLoggedOrStored(t *testing.T) {
	var logs syncBuffer
	klog.LogToStderr(false)
	klog.SetOutput(&logs)
	t.Cleanup(func() { klog.LogToStderr(true) })
	canary := rand.Text()
	r := newRig(t, nil)
	r.store.Put("password", []byte(canary))
	r.mustPublish("v")
	r.store.Put("password", []byte(canary+"2"))
	r.becomes("v", canary+"2")
	r.store.Break()
	r.store.Put("password", []byte(canary+"3"))
	r.eventually("the volume is stale", func() bool {
		rec, _ := r.driver.Volumes().Get(volume.ID("v"))
		return !rec.Stale.IsZero()
	})
	klog.Flush()
	if strings.Contains(logs.String(), canary) {
		t.Errorf("the canary is in the log:\n%s", logs.String())
	}
	records, err := filepath.Glob(filepath.Join(r.config.StateDir, "volumes", "*.json"))
	if err != nil || len(records) != 1 {
		t.Fatalf("records = %v, %v; want one", records, err)
	}
	if text, err := os.ReadFile(records[0]); err != nil || bytes.Contains(text, []byte(canary)) {
		t.Errorf("the record holds the canary, or %v", err)
	}
}

// A syncBuffer is a buffer that loggers may share.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
