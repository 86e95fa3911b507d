package driver_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/driver"
	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/pkg/tmpfs"
	"github.com/keymount/keymount/pkg/tmpfs/userns"
)

func TestMain(m *testing.M) {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2WithVerbosity(&grpcLogs, &grpcLogs, &grpcLogs, 99))
	os.Exit(userns.Main(m))
}

// patience is how long anything may take to happen.
const patience = 20 * time.Second

// A rig is a driver in this process, and a provider on a socket.
type rig struct {
	t        *testing.T
	dir      string
	store    *providertest.Fake
	flags    *flag.FlagSet // of config
	config   driver.Config
	options  *driver.Options
	driver   *driver.Driver
	node     csi.NodeClient
	identity csi.IdentityClient
	stop     func()
}

// newRig returns a rig that runs.
func newRig(t *testing.T, adjust func(*driver.Config)) *rig {
	t.Helper()
	r := prepareRig(t)
	if adjust != nil {
		adjust(&r.config)
	}
	r.start()
	return r
}

// prepareRig returns a rig that is yet to start.
func prepareRig(t *testing.T) *rig {
	t.Helper()
	// The first cleanup runs last, when everything has stopped.
	running := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, running) })
	dir, err := os.MkdirTemp("", "km") // the path of t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, store: &providertest.Fake{}, flags: flag.NewFlagSet("", flag.ContinueOnError)}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("something is left: %v", err)
		}
	})
	r.store.Put("password", []byte("first"))
	for _, dir := range []string{"classes", "providers"} {
		if err := os.Mkdir(r.path(dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.writeClass("24h")
	r.serveStore(r.store)
	r.config.AddFlags(r.flags)
	r.config.NodeID, r.config.Endpoint, r.config.MetricsAddr, r.config.Version = "n", "unix://"+r.path("csi.sock"), "", "v1.2.3"
	r.config.ClassDir, r.config.StateDir = r.path("classes"), r.path("state")
	r.config.ProviderDir, r.config.MoreProviders = r.path("providers"), ""
	r.config.KubeletRoot = r.dir
	t.Cleanup(func() {
		if r.stop == nil {
			return // it never ran
		}
		for _, rec := range r.driver.Volumes().List() {
			_ = r.unpublish(string(rec.ID))
		}
		r.stop()
	})
	return r
}

func (r *rig) path(name string) string { return filepath.Join(r.dir, name) }

// writeClass makes the one class ask the store for the password.
func (r *rig) writeClass(interval string) {
	r.t.Helper()
	objects := r.store.Request(providertest.Object{Name: "password"}).Parameters["objects"]
	r.declare("classes", "fake", map[string]string{"rotationInterval": interval, "objects": objects})
}

// declare replaces the manifest of the one class in a folder.
func (r *rig) declare(folder, provider string, parameters map[string]string) {
	r.t.Helper()
	text, err := json.Marshal(parameters)
	if err != nil {
		r.t.Fatal(err)
	}
	manifest := fmt.Sprintf("apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: c, namespace: ns}\nspec:\n  provider: %s\n  parameters: %s\n", provider, text)
	fresh := r.path("fresh")
	if err := errors.Join(os.WriteFile(fresh, []byte(manifest), 0o644), os.Rename(fresh, filepath.Join(r.path(folder), "c.yaml"))); err != nil {
		r.t.Fatal(err)
	}
}

// serveStore serves a provider as "fake" until the test ends.
func (r *rig) serveStore(p provider.Provider) {
	socket := filepath.Join(r.path("providers"), "fake.sock")
	_ = os.Remove(socket) // of one that was served before
	lis, err := net.Listen("unix", socket)
	if err != nil {
		r.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- plugin.Serve(ctx, lis, p, nil) }()
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
	if r.driver, err = driver.New(r.config, r.options); err != nil {
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
	r.node, r.identity = csi.NewNodeClient(conn), csi.NewIdentityClient(conn)
	r.stop = sync.OnceFunc(func() {
		_ = conn.Close()
		cancel()
		if err := <-served; err != nil {
			r.t.Errorf("Run = %v, want a clean stop", err)
		}
	})
}

// request is what kubelet asks for a volume of the one class.
func (r *rig) request(id string) *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId: id, TargetPath: r.target(id), Readonly: true,
		VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
		VolumeContext: map[string]string{
			"secretProviderClass": "c", "csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/serviceAccount.name": "sa",
			"csi.storage.k8s.io/pod.namespace": "ns", "csi.storage.k8s.io/pod.name": "p-" + id, "csi.storage.k8s.io/pod.uid": "u-" + id,
		},
	}
}

func (r *rig) publish(id string) error { return r.send(r.request(id)) }

func (r *rig) send(req *csi.NodePublishVolumeRequest) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := r.node.NodePublishVolume(ctx, req, grpc.WaitForReady(true))
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
	for i := range 3 {
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

func TestVolumesOfOneIdentityShareAFetch(t *testing.T) {
	r := newRig(t, nil)
	r.mustPublish("before")
	r.store.Put("password", []byte("second"))
	r.becomes("before", "second") // its provider is watched by now, so that nothing else is due
	r.store.Delay(50 * time.Millisecond)
	before := r.store.Fetches()
	var wait sync.WaitGroup
	for i := range 20 {
		wait.Go(func() {
			if err := r.publish(fmt.Sprint("many-", i)); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	// One for the burst; a second if the change was told twice.
	if got := r.store.Fetches() - before; got > 2 {
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
	address := freeAddress(t)
	r := newRig(t, func(c *driver.Config) { c.MetricsAddr = address })
	r.eventually("/readyz answers", func() bool { return readyz(address) != 0 })
	ready := func(want bool, when string) {
		t.Helper()
		probe, err := r.identity.Probe(t.Context(), &csi.ProbeRequest{}, grpc.WaitForReady(true))
		if err != nil || probe.Ready.GetValue() != want {
			t.Errorf("Probe %s = %v, %v; want %v", when, probe, err, want)
		}
		code := map[bool]int{true: http.StatusOK, false: http.StatusServiceUnavailable}[want]
		if got := readyz(address); got != code {
			t.Errorf("/readyz %s = %d, want %d", when, got, code)
		}
	}
	ready(true, "at first")
	for name, dir := range map[string]string{"state folder": r.config.StateDir, "class folder": r.config.ClassDir} {
		if err := os.Rename(dir, dir+".away"); err != nil {
			t.Fatal(err)
		}
		ready(false, "without the "+name)
		if err := os.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
		ready(true, "with the "+name+" again")
	}
}

// freeAddress returns an address on which nobody listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = free.Close() }()
	return free.Addr().String()
}

// readyz returns the status of /readyz, or zero if nobody answers.
func readyz(address string) int {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + address + "/readyz")
	if err != nil {
		return 0
	}
	_ = resp.Body.Close()
	return resp.StatusCode
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
