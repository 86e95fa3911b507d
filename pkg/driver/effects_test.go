package driver_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/testing/protocmp"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/keymount/keymount/pkg/driver"
	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/tmpfs"
)

// An effect is what a flag does, seen from outside: by kubelet, by a provider,
// or in the file system.
type effect struct {
	flag  string
	value func(r *rig) string // not the default; it may arrange things
	seen  func(r *rig, f *foreign)
}

// writeCertificate makes the folder of --metrics-tls.
func writeCertificate(r *rig, pair tls.Certificate) {
	r.t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	err = errors.Join(err, os.Mkdir(r.path("tls"), 0o700),
		os.WriteFile(r.path("tls/tls.crt"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]}), 0o600),
		os.WriteFile(r.path("tls/tls.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
	if err != nil {
		r.t.Fatal(err)
	}
}

func just(value string) func(*rig) string { return func(*rig) string { return value } }

// TestEveryFlagHasItsEffect runs a driver with one flag after another, and a
// class of a foreign provider that is refreshed each second.
func TestEveryFlagHasItsEffect(t *testing.T) {
	all := flag.NewFlagSet("", flag.ContinueOnError)
	new(driver.Config).AddFlags(all)
	untested := map[string]bool{}
	all.VisitAll(func(f *flag.Flag) { untested[f.Name] = true })
	for _, e := range slices.Concat(effectsOnTheNode(), effectsOnWhoWatches(), effectsOnTheAuditLog(), effectsOnKubelet(), effectsInACluster(), effectsOnSocketsOfProviders(), effectsOnProviders()) {
		delete(untested, e.flag)
		t.Run(e.flag, func(t *testing.T) {
			r, f := newForeignRig(t, map[string]string{"rotationInterval": "1s", "place": "class"})
			if err := r.flags.Set(e.flag, e.value(r)); err != nil {
				t.Fatal(err)
			}
			r.start()
			e.seen(r, f)
		})
	}
	if len(untested) > 0 {
		t.Errorf("no effect is tested of the flags %v", untested)
	}
}

func effectsOnWhoWatches() []effect {
	var address string
	var client *http.Client
	return []effect{
		{"metrics-addr", func(r *rig) string { address = freeAddress(r.t); return address }, func(r *rig, _ *foreign) {
			r.eventually("/readyz says yes", func() bool { return readyz(address) == http.StatusOK })
			if err := os.Remove(r.path("csi.sock")); err != nil { // nobody can call any more
				r.t.Fatal(err)
			}
			r.eventually("/readyz says no", func() bool { return readyz(address) == http.StatusServiceUnavailable })
		}},
		{"metrics-tls", func(r *rig) string {
			r.config.MetricsAddr = freeAddress(r.t)
			authority := httptest.NewTLSServer(http.NotFoundHandler())
			r.t.Cleanup(authority.Close)
			client = authority.Client()
			writeCertificate(r, authority.TLS.Certificates[0])
			return r.path("tls")
		}, func(r *rig, _ *foreign) {
			r.eventually("metrics are served over HTTPS", func() bool {
				resp, err := client.Get("https://" + r.config.MetricsAddr + "/metrics")
				return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
			})
			client.CloseIdleConnections()
		}},
		{"pprof-socket", func(r *rig) string { return r.path("pprof.sock") }, func(r *rig, _ *foreign) {
			client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", r.path("pprof.sock"))
			}}}
			r.eventually("profiles are served", func() bool {
				resp, err := client.Get("http://driver/debug/pprof/heap")
				return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
			})
		}},
	}
}

func effectsOnTheNode() []effect {
	return []effect{
		{"endpoint", func(r *rig) string { return "unix://" + r.path("other.sock") }, func(r *rig, _ *foreign) {
			r.mustPublish("v")
			if _, err := os.Lstat(r.path("other.sock")); err != nil {
				r.t.Error(err)
			}
		}},
		{"nodeid", just("other"), func(r *rig, _ *foreign) {
			info, err := r.node.NodeGetInfo(r.t.Context(), &csi.NodeGetInfoRequest{}, grpc.WaitForReady(true))
			if err != nil || info.NodeId != "other" {
				r.t.Errorf("NodeGetInfo = %v, %v", info, err)
			}
		}},
		{"drivername", just("other.example"), func(r *rig, _ *foreign) {
			info, err := r.identity.GetPluginInfo(r.t.Context(), &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
			want := &csi.GetPluginInfoResponse{Name: "other.example", VendorVersion: "v1.2.3"}
			if diff := cmp.Diff(want, info, protocmp.Transform()); err != nil || diff != "" {
				r.t.Errorf("GetPluginInfo: %v (-want +got):\n%s", err, diff)
			}
		}},
		{"state-dir", func(r *rig) string { return r.path("elsewhere") }, func(r *rig, _ *foreign) {
			r.mustPublish("v")
			records, err := filepath.Glob(r.path("elsewhere/volumes/*.json"))
			if err != nil || len(records) != 1 {
				r.t.Errorf("records = %v, %v; want one", records, err)
			}
		}},
		{"tmpfs-size", just("1Mi"), func(r *rig, _ *foreign) {
			r.mustPublish("v")
			var fs unix.Statfs_t
			if err := unix.Statfs(r.target("v"), &fs); err != nil {
				r.t.Fatal(err)
			}
			if size := int64(fs.Blocks) * fs.Bsize; size != 1<<20 || fs.Files != 8192 {
				r.t.Errorf("the volume has room for %d bytes and %d files, want 1Mi and 8192", size, fs.Files)
			}
		}},
		{"enable-secret-rotation", just("false"), func(r *rig, _ *foreign) {
			r.mustPublish("v")
			if rec, _ := r.driver.Volumes().Get("v"); !rec.Due.IsZero() {
				r.t.Errorf("the volume is due %v, want never", rec.Due)
			}
		}},
		{"rotation-poll-interval", func(r *rig) string {
			r.declare("classes", "foreign", nil)
			return "1s"
		}, func(r *rig, f *foreign) {
			r.mustPublish("v")
			r.eventually("a refresh", func() bool { return len(f.requests()) > 1 })
		}},
	}
}

func effectsOnTheAuditLog() []effect {
	var leave func()
	return []effect{
		{"audit-log", func(r *rig) string { return r.path("audit.jsonl") }, func(r *rig, _ *foreign) {
			r.mustPublish("v")
			if events := written(r.t, r.path("audit.jsonl")); len(events) < 3 {
				r.t.Errorf("the audit log has %d events", len(events))
			}
		}},
		{"audit-required", func(r *rig) string { leave = r.listenToAudit(); return "false" }, func(r *rig, _ *foreign) {
			leave()
			r.mustPublish("v")
		}},
	}
}

func effectsOnKubelet() []effect {
	// info is what kubelet is told on the registration socket.
	info := func(r *rig, driver string) *registration.PluginInfo {
		conn, err := grpc.NewClient("unix:"+r.path("registry/"+driver+"-reg.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			r.t.Fatal(err)
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(r.t.Context(), patience)
		defer cancel()
		info, err := registration.NewRegistrationClient(conn).GetInfo(ctx, &registration.InfoRequest{}, grpc.WaitForReady(true))
		if err != nil {
			r.t.Fatal(err)
		}
		return info
	}
	const name = "secrets-store.csi.k8s.io"
	return []effect{
		{"kubelet-root", just("/var/lib/kubelet"), func(r *rig, _ *foreign) {
			r.fails(codes.InvalidArgument, "is not below /var/lib/kubelet/pods")
			if err := r.unpublish("v"); status.Code(err) != codes.InvalidArgument {
				r.t.Errorf("unpublish = %v, want InvalidArgument", err)
			}
		}},
		{"registration-dir", func(r *rig) string { return r.path("registry") }, func(r *rig, _ *foreign) {
			if got := info(r, name); got.GetEndpoint() != r.path("csi.sock") || got.GetName() != name || got.GetType() != registration.CSIPlugin {
				r.t.Errorf("kubelet is told %v", got)
			}
		}},
		{"kubelet-registration-path", func(r *rig) string {
			r.config.RegistrationDir = r.path("registry")
			return "/var/lib/kubelet/plugins/x/csi.sock"
		}, func(r *rig, _ *foreign) {
			if got := info(r, name).GetEndpoint(); got != "/var/lib/kubelet/plugins/x/csi.sock" {
				r.t.Errorf("kubelet is told of the socket %s", got)
			}
		}},
		{"require-providers", func(r *rig) string {
			r.config.MetricsAddr = freeAddress(r.t)
			return "foreign, absent"
		}, func(r *rig, _ *foreign) {
			r.eventually("/readyz says no", func() bool { return readyz(r.config.MetricsAddr) == http.StatusServiceUnavailable })
			r.serveForeign("absent", holds("second"))
			if err := os.Rename(r.path("absent/foreign.sock"), r.path("providers/absent.sock")); err != nil {
				r.t.Fatal(err)
			}
			r.eventually("/readyz says yes", func() bool { return readyz(r.config.MetricsAddr) == http.StatusOK })
		}},
	}
}

func effectsInACluster() []effect {
	var cluster *api
	use := func(value func(r *rig) string) func(r *rig) string {
		return func(r *rig) string {
			cluster = r.useCluster(map[string]string{"place": "cluster"})
			return value(r)
		}
	}
	return []effect{
		{"kubeconfig", use(func(r *rig) string { return r.config.Kubeconfig }), func(r *rig, f *foreign) {
			r.mustPublish("v")
			r.wasAsked(f, map[string]string{"place": "cluster"})
			r.eventually("a status is written", func() bool {
				return cluster.called("PATCH " + customPath + "/namespaces/ns/secretproviderclasspodstatuses/p-v-ns-c")
			})
		}},
		{"sync-secrets", use(just("true")), func(r *rig, _ *foreign) {
			r.mustPublish("v")
			r.eventually("a Secret is written", func() bool { return cluster.called("POST /api/v1/namespaces/ns/secrets") })
		}},
		{"mint-tokens", use(just("true")), func(r *rig, f *foreign) {
			f.answers(demands("x", holds("first")))
			r.mustPublish("v")
			if got := f.requests(); len(got) != 2 || !strings.Contains(got[1].Attributes, cluster.token) {
				r.t.Errorf("the provider was asked %d times, want twice, and the second time with the token", len(got))
			}
		}},
		{"remove-startup-taint", use(just("true")), func(r *rig, _ *foreign) {
			r.eventually("the node is patched", func() bool { return cluster.called("PATCH /api/v1/nodes/n") })
		}},
	}
}

func effectsOnSocketsOfProviders() []effect {
	return []effect{
		{"class-dir", func(r *rig) string {
			if err := os.Mkdir(r.path("elsewhere"), 0o755); err != nil {
				r.t.Fatal(err)
			}
			r.declare("elsewhere", "foreign", map[string]string{"place": "elsewhere"})
			return r.path("elsewhere")
		}, func(r *rig, f *foreign) {
			r.mustPublish("v")
			r.wasAsked(f, map[string]string{"place": "elsewhere"})
		}},
		{"provider-volume", func(r *rig) string {
			r.serveForeign("elsewhere", holds("elsewhere"))
			return r.path("elsewhere")
		}, func(r *rig, _ *foreign) {
			r.mustPublish("v")
			r.becomes("v", "elsewhere")
		}},
		{"additional-provider-volume-paths", func(r *rig) string {
			r.serveForeign("second", holds("second"))
			r.serveForeign("third", holds("third"))
			return r.path("none") + ", " + r.path("second") + "," + r.path("third")
		}, func(r *rig, _ *foreign) {
			r.mustPublish("v")
			r.becomes("v", "second") // provider-volume, where "first" is, comes last
		}},
		{"provider-users", just(fmt.Sprintf("foreign=%d", os.Getuid()+1)), func(r *rig, f *foreign) {
			r.fails(codes.Unavailable, "(--provider-users)")
			if asked := len(f.requests()); asked > 0 {
				r.t.Errorf("the provider was asked %d times", asked)
			}
		}},
	}
}

func effectsOnProviders() []effect {
	return []effect{
		{"provider-timeout", just("1s"), func(r *rig, f *foreign) {
			f.answers(func(ctx context.Context, _ *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
				<-ctx.Done()
				return nil, ctx.Err()
			})
			began := time.Now()
			err := r.publish("v")
			if code := status.Code(err); code != codes.Unavailable {
				r.t.Errorf("publish = %v, want Unavailable", err)
			}
			if took := time.Since(began); took < 900*time.Millisecond || took > patience/2 {
				r.t.Errorf("publish took %v, want 1s", took)
			}
		}},
		{"max-call-recv-msg-size", just("2048"), func(r *rig, f *foreign) {
			f.answers(holds(strings.Repeat("x", 2048)))
			r.fails(codes.ResourceExhausted, "larger than 2048 bytes: fetch less in one class, or raise --max-call-recv-msg-size")
		}},
		{"allow-volume-attribute-overrides", just("true"), func(r *rig, f *foreign) {
			req := r.request("v")
			req.VolumeContext["place"], req.VolumeContext["more"] = "pod", "pod"
			if err := r.send(req); err != nil {
				r.t.Fatal(err)
			}
			r.wasAsked(f, map[string]string{"place": "pod", "more": "pod"})
		}},
		{"send-held-versions", just("false"), func(r *rig, f *foreign) {
			r.mustPublish("v")
			r.eventually("a refresh", func() bool { return len(f.requests()) > 1 })
			if held := f.requests()[1].CurrentObjectVersion; len(held) > 0 {
				r.t.Errorf("the provider was told of %v", held)
			}
		}},
	}
}

// wasAsked compares the parameters of the provider's first request, apart from
// those that every request has.
func (r *rig) wasAsked(f *foreign, want map[string]string) {
	r.t.Helper()
	got := map[string]string{}
	if err := json.Unmarshal([]byte(f.requests()[0].Attributes), &got); err != nil {
		r.t.Fatal(err)
	}
	for key := range got {
		if key == "secretProviderClass" || strings.HasPrefix(key, "csi.storage.k8s.io/") {
			delete(got, key)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		r.t.Errorf("parameters (-want +got):\n%s", diff)
	}
}

// fails publishes a volume that cannot be.
func (r *rig) fails(code codes.Code, words string) {
	r.t.Helper()
	if err := r.publish("v"); status.Code(err) != code || !strings.Contains(err.Error(), words) {
		r.t.Errorf("publish = %v, want %v and %q", err, code, words)
	}
}

// A fragile Mounter panics at first.
type fragile struct {
	publish.Mounter
	mounts atomic.Int32
}

func (m *fragile) Mount(target string, opts tmpfs.Options) (uint64, bool, error) {
	if m.mounts.Add(1) == 1 {
		panic("the first mount")
	}
	return m.Mounter.Mount(target, opts)
}

func TestAPanicFailsOneCallAndNoOther(t *testing.T) {
	mounts, err := tmpfs.New()
	if err != nil {
		t.Fatal(err)
	}
	r := prepareRig(t)
	r.options = &driver.Options{Mounts: &fragile{Mounter: mounts}}
	r.start()
	r.fails(codes.Internal, "internal error: panic of type string")
	r.nothingIsLeft("v")
	r.mustPublish("v")
	r.becomes("v", "first")
}

func TestVolumesCostNoGoroutineAndNoOpenFile(t *testing.T) {
	const tolerance = 10
	r := newRig(t, nil)
	r.mustPublish("v")
	files := func() int {
		open, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(open)
	}
	goroutines, opened := runtime.NumGoroutine(), files()
	for i := range 50 {
		r.mustPublish(fmt.Sprint("many-", i))
	}
	r.eventually("as many goroutines and open files as with one volume", func() bool {
		return runtime.NumGoroutine() < goroutines+tolerance && files() < opened+tolerance
	})
}

func TestStopWaitsForReleasesOfLeases(t *testing.T) {
	r := prepareRig(t)
	r.declare("classes", "fake", map[string]string{"lease": "database"})
	r.start()
	r.mustPublish("v")
	if got := r.store.Leases(); got != 1 {
		t.Fatalf("%d leases of one volume", got)
	}
	r.store.Delay(500 * time.Millisecond) // longer than all else that a stop waits for
	if err := r.unpublish("v"); err != nil {
		t.Fatal(err)
	}
	r.stop()
	if got := r.store.Leases(); got != 0 {
		t.Errorf("%d leases are left after Run has returned", got)
	}
	if _, err := os.Lstat(r.path("csi.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

func TestALeaseIsGivenBackByTheNextDriver(t *testing.T) {
	r := prepareRig(t)
	r.declare("classes", "fake", map[string]string{"lease": "database"})
	r.start()
	r.mustPublish("v")
	r.store.Break()
	if err := r.unpublish("v"); err != nil {
		t.Fatal(err)
	}
	r.nothingIsLeft("v")
	r.stop()
	notes := func() int {
		found, err := filepath.Glob(r.path("state/releases/*.json"))
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	if leases := r.store.Leases(); leases != 1 || notes() != 1 {
		t.Fatalf("%d leases and %d notes at a store that is out of order, want one of each", leases, notes())
	}
	r.store.Repair()
	r.start()
	r.eventually("the lease is given back", func() bool { return r.store.Leases() == 0 && notes() == 0 })
}
