package node_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/node"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/pkg/tmpfs"
	"github.com/keymount/keymount/pkg/tmpfs/userns"
	"github.com/keymount/keymount/pkg/volume"
)

func TestMain(m *testing.M) { os.Exit(userns.Main(m)) }

// recorder is a Publisher that notes what it is asked and answers as told.
type recorder struct {
	volumes     []volume.Volume
	unpublished []string
	err         error
}

func (r *recorder) Publish(_ context.Context, v volume.Volume) (publish.Result, error) {
	r.volumes = append(r.volumes, v)
	return publish.Result{}, r.err
}

func (r *recorder) Refresh(context.Context, volume.ID) (publish.Result, error) {
	return publish.Result{}, r.err
}

func (r *recorder) Unpublish(_ context.Context, id volume.ID, target string) error {
	r.unpublished = append(r.unpublished, string(id)+" "+target)
	return r.err
}

// dial serves s on a unix socket and connects to it.
func dial(t *testing.T, s *node.Server) *grpc.ClientConn {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "csi.sock")
	lis, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	s.Register(server)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			t.Errorf("serve: %v", err)
		}
	})
	return conn
}

func validRequest() *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId: "csi-1", TargetPath: "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/s/mount", Readonly: true,
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
		VolumeContext: map[string]string{
			"secretProviderClass":                    "db",
			"csi.storage.k8s.io/ephemeral":           "true",
			"csi.storage.k8s.io/pod.namespace":       "shop",
			"csi.storage.k8s.io/pod.name":            "web-0",
			"csi.storage.k8s.io/pod.uid":             "uid",
			"csi.storage.k8s.io/serviceAccount.name": "web",
			"extra":                                  "pod",
		},
	}
}

const tokensKey = "csi.storage.k8s.io/serviceAccount.tokens"

func TestPublishRequestsAreCheckedBeforeAnyEffect(t *testing.T) {
	type req = csi.NodePublishVolumeRequest
	drop := func(key string) func(*req) { return func(r *req) { delete(r.VolumeContext, key) } }
	for _, c := range []struct {
		name   string
		change func(r *req)
		want   string // part of the message
	}{
		{"volume ID is required", func(r *req) { r.VolumeId = "" }, "volume ID"},
		{"volume ID has a limit", func(r *req) { r.VolumeId = strings.Repeat("x", 2000) }, "longer than"},
		{"target path is required", func(r *req) { r.TargetPath = "" }, "target path"},
		{"target path must be absolute", func(r *req) { r.TargetPath = "pods/x" }, "absolute"},
		{"target path must not climb", func(r *req) { r.TargetPath = "/var/lib/kubelet/pods/../../../etc" }, "absolute"},
		{"target path must not be the root", func(r *req) { r.TargetPath = "//" }, "root"},
		{"target path must not contain NUL", func(r *req) { r.TargetPath = "/var/lib\x00/kubelet" }, "absolute"},
		{"capability is required", func(r *req) { r.VolumeCapability = nil }, "capability"},
		{"a capability without access type is no mount", func(r *req) { r.VolumeCapability.AccessType = nil }, "must be a mount"},
		{"block volumes are refused", func(r *req) {
			r.VolumeCapability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		}, "block device"},
		{"a pod must mount read-only", func(r *req) { r.Readonly = false }, "readOnly: true"},
		{"the class is required", drop("secretProviderClass"), "secretProviderClass"},
		{"the pod's namespace is required", drop("csi.storage.k8s.io/pod.namespace"), "podInfoOnMount"},
		{"the pod's name is required", drop("csi.storage.k8s.io/pod.name"), "podInfoOnMount"},
		{"the pod's UID is required", drop("csi.storage.k8s.io/pod.uid"), "podInfoOnMount"},
		{"no attributes at all", func(r *req) { r.VolumeContext = nil }, "secretProviderClass"},
		{"the group must be a number", func(r *req) { r.VolumeCapability.GetMount().VolumeMountGroup = "staff" }, "group"},
		{"the group must not be negative", func(r *req) { r.VolumeCapability.GetMount().VolumeMountGroup = "-1" }, "group"},
		{"the group must fit the kernel", func(r *req) { r.VolumeCapability.GetMount().VolumeMountGroup = "99999999999" }, "group"},
		{"tokens must be JSON", func(r *req) { r.VolumeContext[tokensKey] = "[not tokens" }, "JSON"},
		{"tokens must be an object", func(r *req) { r.Secrets = map[string]string{tokensKey: `["a"]`} }, "JSON"},
		{"token expiry must be a time", func(r *req) {
			r.Secrets = map[string]string{tokensKey: `{"vault":{"token":"x","expirationTimestamp":"tomorrow"}}`}
		}, "RFC 3339"},
	} {
		t.Run(c.name, func(t *testing.T) {
			pub := &recorder{}
			client := csi.NewNodeClient(dial(t, &node.Server{Publisher: pub}))
			req := validRequest()
			c.change(req)
			_, err := client.NodePublishVolume(t.Context(), req)
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %v, want InvalidArgument with %q", err, c.want)
			}
			if len(pub.volumes) != 0 {
				t.Errorf("the publisher was called with %+v", pub.volumes)
			}
		})
	}
}

func TestPublishRequestBecomesAVolume(t *testing.T) {
	group, expires := int64(2000), time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	tokens := `{"vault":{"token":"jwt","expirationTimestamp":"2030-01-02T03:04:05Z"}}`
	valid := func() volume.Volume {
		return volume.Volume{
			ID: "csi-1", Target: validRequest().TargetPath,
			Class:      class.Name{Namespace: "shop", Name: "db"},
			Pod:        provider.Pod{Namespace: "shop", Name: "web-0", UID: "uid", ServiceAccount: "web"},
			Attributes: validRequest().VolumeContext,
		}
	}
	withToken := func(v *volume.Volume) {
		v.Tokens = provider.Tokens{"vault": {Value: secret.New([]byte("jwt")), Expires: expires}}
	}
	for _, c := range []struct {
		name   string
		change func(r *csi.NodePublishVolumeRequest)
		want   func(v *volume.Volume)
	}{
		{"a plain request", func(*csi.NodePublishVolumeRequest) {}, func(*volume.Volume) {}},
		{"a persistent volume need not be read-only", func(r *csi.NodePublishVolumeRequest) {
			delete(r.VolumeContext, "csi.storage.k8s.io/ephemeral")
			r.Readonly = false
		}, func(v *volume.Volume) { delete(v.Attributes, "csi.storage.k8s.io/ephemeral") }},
		{"a trailing slash is no other target", func(r *csi.NodePublishVolumeRequest) { r.TargetPath += "/" }, func(*volume.Volume) {}},
		{"the pod's group", func(r *csi.NodePublishVolumeRequest) {
			r.VolumeCapability.GetMount().VolumeMountGroup = "2000"
		}, func(v *volume.Volume) { v.Group = &group }},
		{"tokens among the attributes leave them", func(r *csi.NodePublishVolumeRequest) {
			r.VolumeContext[tokensKey] = tokens
		}, withToken},
		{"tokens among the secrets come first and leave them", func(r *csi.NodePublishVolumeRequest) {
			r.VolumeContext[tokensKey] = `{"vault":{"token":"old"}}`
			r.Secrets = map[string]string{tokensKey: tokens, "client": "id"}
		}, func(v *volume.Volume) {
			withToken(v)
			v.Credentials = map[string]secret.Value{"client": secret.New([]byte("id"))}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			pub := &recorder{}
			client := csi.NewNodeClient(dial(t, &node.Server{Publisher: pub}))
			req, want := validRequest(), valid()
			c.change(req)
			c.want(&want)
			if _, err := client.NodePublishVolume(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]volume.Volume{want}, pub.volumes); diff != "" {
				t.Errorf("volume (-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnpublishIsChecked(t *testing.T) {
	pub := &recorder{}
	client := csi.NewNodeClient(dial(t, &node.Server{Publisher: pub}))
	for _, req := range []*csi.NodeUnpublishVolumeRequest{
		{TargetPath: "/x"}, {VolumeId: "v"}, {VolumeId: "v", TargetPath: "x"}, {VolumeId: "v", TargetPath: "/x/../y"},
	} {
		if _, err := client.NodeUnpublishVolume(t.Context(), req); status.Code(err) != codes.InvalidArgument {
			t.Errorf("NodeUnpublishVolume(%v) = %v, want InvalidArgument", req, err)
		}
	}
	if _, err := client.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "v", TargetPath: "/x"}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"v /x"}, pub.unpublished); diff != "" {
		t.Errorf("unpublished (-want +got):\n%s", diff)
	}
}

func TestOnlyKubeletsTargetsAreTouched(t *testing.T) {
	pub := &recorder{}
	client := csi.NewNodeClient(dial(t, &node.Server{Publisher: pub, Root: "/var/lib/kubelet/pods"}))
	for _, target := range []string{
		"/etc", "/var/lib/kubelet", "/var/lib/kubelet/pods", "/var/lib/kubelet/pods/", "/var/lib/kubelet/podsx/uid/mount", "/var/lib/kubelet/plugins/x",
		"/var/lib/kubelet/pods/../plugins/x",
	} {
		publish := validRequest()
		publish.TargetPath = target
		_, err := client.NodePublishVolume(t.Context(), publish)
		_, err2 := client.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: "v", TargetPath: target})
		if status.Code(err) != codes.InvalidArgument || status.Code(err2) != codes.InvalidArgument {
			t.Errorf("publish and unpublish at %s = %v, %v; want InvalidArgument", target, err, err2)
		}
	}
	if len(pub.volumes)+len(pub.unpublished) > 0 {
		t.Errorf("published %v, unpublished %v", pub.volumes, pub.unpublished)
	}
	if _, err := client.NodePublishVolume(t.Context(), validRequest()); err != nil {
		t.Errorf("publish at %s: %v", validRequest().TargetPath, err)
	}
}

// answer is an error of a provider process, with the code that it chose.
type answer struct{ code codes.Code }

func (a answer) Error() string              { return "the provider's words" }
func (a answer) GRPCStatus() *status.Status { return status.New(a.code, a.Error()) }
func (a answer) Unwrap() error              { return provider.ErrUnavailable }

func TestErrorsHaveTheRightCode(t *testing.T) {
	type row struct {
		name string
		err  error
		want codes.Code
	}
	rows := []row{
		{"stale is success to kubelet", &publish.StaleError{Err: provider.ErrDenied}, codes.OK},
		{"invalid", provider.ErrInvalid, codes.InvalidArgument},
		{"not found", provider.ErrNotFound, codes.NotFound},
		{"denied", provider.ErrDenied, codes.PermissionDenied},
		{"unavailable", provider.ErrUnavailable, codes.Unavailable},
		{"no class", class.ErrNotFound, codes.NotFound},
		{"a bad class", class.ErrInvalid, codes.InvalidArgument},
		{"published differently", publish.ErrConflict, codes.AlreadyExists},
		{"unpublished meanwhile", publish.ErrUnpublished, codes.Aborted},
		{"too slow", context.DeadlineExceeded, codes.DeadlineExceeded},
		{"given up", context.Canceled, codes.Canceled},
		{"anything else", errors.New("boom"), codes.Internal},
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		rows = append(rows, row{fmt.Sprintf("a provider's own %v is kept", code), answer{code}, code})
	}
	for _, c := range rows {
		t.Run(c.name, func(t *testing.T) {
			s := &node.Server{Publisher: &recorder{err: fmt.Errorf("volume csi-1: %w", c.err)}}
			_, err := s.NodePublishVolume(t.Context(), validRequest())
			if got := status.Code(err); got != c.want {
				t.Errorf("code = %v (%v), want %v", got, err, c.want)
			}
			if err != nil && !strings.Contains(err.Error(), "volume csi-1: ") {
				t.Errorf("error = %v, want the whole message", err)
			}
		})
	}
}

func TestIdentityIsHonest(t *testing.T) {
	notReady := errors.New("no")
	s := &node.Server{Name: "secrets-store.csi.k8s.io", Version: "v1", NodeID: "n1", Ready: func(context.Context) error { return notReady }}
	conn := dial(t, s)
	identity, client := csi.NewIdentityClient(conn), csi.NewNodeClient(conn)

	info, err := identity.GetPluginInfo(t.Context(), &csi.GetPluginInfoRequest{})
	if err != nil || info.Name != s.Name || info.VendorVersion != "v1" {
		t.Errorf("GetPluginInfo = %v, %v", info, err)
	}
	able, err := identity.GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
	if err != nil || len(able.Capabilities) != 0 {
		t.Errorf("GetPluginCapabilities = %v, %v; want none: there is no controller", able, err)
	}
	for _, ready := range []bool{false, true} {
		probe, err := identity.Probe(t.Context(), &csi.ProbeRequest{})
		if err != nil || probe.Ready.GetValue() != ready {
			t.Errorf("Probe = %v, %v; want %v", probe, err, ready)
		}
		notReady = nil
	}
	node, err := client.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	if diff := cmp.Diff(&csi.NodeGetInfoResponse{NodeId: "n1"}, node, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("NodeGetInfo: %v (-want +got):\n%s", err, diff)
	}
	rpcs, err := client.NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, c := range rpcs.Capabilities {
		got = append(got, c.GetRpc().GetType().String())
	}
	if diff := cmp.Diff([]string{"GET_VOLUME_STATS", "4", "GET_VOLUME_HEALTH", "VOLUME_MOUNT_GROUP"}, got); diff != "" {
		t.Errorf("NodeGetCapabilities (-want +got):\n%s", diff)
	}
}

func TestVolumeStats(t *testing.T) {
	dir := t.TempDir()
	fresh := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	volumes := &volume.Memory{}
	client := csi.NewNodeClient(dial(t, &node.Server{Volumes: volumes, Mounted: func(path string) (uint64, error) {
		if path != dir {
			return 0, nil
		}
		return 7, nil
	}}))
	put := func(rec volume.Record) {
		t.Helper()
		if err := volumes.Put(rec); err != nil {
			t.Fatal(err)
		}
	}
	stats := func(id, path string) (*csi.NodeGetVolumeStatsResponse, error) {
		return client.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: id, VolumePath: path})
	}
	put(volume.Record{ID: "v", Target: dir, Mount: 7, Refreshed: fresh})
	put(volume.Record{ID: "gone", Target: dir + "/gone", Mount: 7})
	put(volume.Record{ID: "covered", Target: dir, Mount: 8})
	for _, c := range []struct {
		name, id, path string
		want           codes.Code
	}{
		{"the ID is required", "", dir, codes.InvalidArgument},
		{"the path is required", "v", "", codes.InvalidArgument},
		{"an unknown volume is not found", "w", dir, codes.NotFound},
		{"a volume elsewhere is not found", "v", "/elsewhere", codes.NotFound},
		{"a relative path is nobody's", "v", "some/path", codes.NotFound},
		{"a volume that another mount covers is not found", "covered", dir, codes.NotFound},
		{"a volume whose directory is gone is not found", "gone", dir + "/gone", codes.NotFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := stats(c.id, c.path); status.Code(err) != c.want {
				t.Errorf("error = %v, want %v", err, c.want)
			}
		})
	}
	got, err := stats("v", dir)
	if err != nil {
		t.Fatal(err)
	}
	if abnormal, message := condition(t, got); abnormal || message != "fresh as of 2026-01-02T03:04:05Z" {
		t.Errorf("condition = %v, %q; want normal and fresh", abnormal, message)
	}
	if len(got.Usage) != 2 || got.Usage[0].Unit != csi.VolumeUsage_BYTES || got.Usage[0].Total <= 0 || got.Usage[1].Unit != csi.VolumeUsage_INODES {
		t.Errorf("usage = %v, want bytes and inodes", got.Usage)
	}
	put(volume.Record{ID: "v", Target: dir, Mount: 7, Refreshed: fresh, Stale: volume.Staleness{
		Since: fresh.Add(time.Hour), Failures: 3, Reason: "Unavailable", Message: "store is down",
	}})
	got, err = stats("v", dir)
	if err != nil {
		t.Fatal(err)
	}
	const stale = "stale since 2026-01-02T04:04:05Z (Unavailable, 3 failures in a row; last success 2026-01-02T03:04:05Z): store is down"
	if abnormal, message := condition(t, got); !abnormal || message != stale {
		t.Errorf("condition = %v, %q; want abnormal, %q", abnormal, message, stale)
	}
}

func TestVolumeStatsCountWhatTheFileSystemHolds(t *testing.T) {
	const size, inodes = 1 << 20, 64
	mounts, err := tmpfs.New()
	if err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "volume")
	id, _, err := mounts.Mount(target, tmpfs.Options{Size: size, Inodes: inodes})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := mounts.Unmount(target); err != nil {
			t.Error(err)
		}
	})
	held := int64(5 * os.Getpagesize())
	if err := os.WriteFile(filepath.Join(target, "file"), make([]byte, held), 0o600); err != nil {
		t.Fatal(err)
	}
	volumes := &volume.Memory{}
	if err := volumes.Put(volume.Record{ID: "v", Target: target, Mount: id}); err != nil {
		t.Fatal(err)
	}
	s := &node.Server{Volumes: volumes, Mounted: mounts.Mounted}
	got, err := s.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "v", VolumePath: target})
	if err != nil {
		t.Fatal(err)
	}
	want := []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: size, Used: held, Available: size - held},
		{Unit: csi.VolumeUsage_INODES, Total: inodes, Used: 2, Available: inodes - 2}, // the root and the file
	}
	if diff := cmp.Diff(want, got.Usage, protocmp.Transform()); diff != "" {
		t.Errorf("usage (-want +got):\n%s", diff)
	}
}

// condition reads the VolumeCondition of CSI 1.12 (field 2: bool abnormal = 1,
// string message = 2) as kubelet does.
func condition(t *testing.T, resp *csi.NodeGetVolumeStatsResponse) (abnormal bool, message string) {
	t.Helper()
	fields := fieldsOf(t, resp.ProtoReflect().GetUnknown())
	inner := fieldsOf(t, fields[2])
	return len(inner[1]) == 1 && inner[1][0] == 1, string(inner[2])
}

// fieldsOf splits a message into its fields: the bytes of strings and
// messages, one byte for small numbers.
func fieldsOf(t *testing.T, wire []byte) map[protowire.Number][]byte {
	t.Helper()
	fields := map[protowire.Number][]byte{}
	for len(wire) > 0 {
		number, kind, n := protowire.ConsumeTag(wire)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		wire = wire[n:]
		if kind == protowire.VarintType {
			value, n := protowire.ConsumeVarint(wire)
			fields[number], wire = []byte{byte(value)}, wire[n:]
			continue
		}
		value, n := protowire.ConsumeBytes(wire)
		if n < 0 {
			t.Fatal(protowire.ParseError(n))
		}
		fields[number], wire = value, wire[n:]
	}
	return fields
}

func TestVolumeHealth(t *testing.T) {
	volumes := &volume.Memory{}
	s := &node.Server{Volumes: volumes}
	since := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, rec := range []volume.Record{
		{ID: "fresh", Target: "/t"},
		{ID: "stale", Target: "/t", Stale: volume.Staleness{Since: since, Failures: 1, Reason: "Denied", Message: "no"}},
	} {
		if err := volumes.Put(rec); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name, id, path string
		code           codes.Code
		want           []string // status and reason
	}{
		{"the ID is required", "", "", codes.InvalidArgument, nil},
		{"an unknown volume is not found", "other", "", codes.NotFound, nil},
		{"a volume elsewhere is not found", "fresh", "/elsewhere", codes.NotFound, nil},
		{"a fresh volume is healthy", "fresh", "/t", codes.OK, nil},
		{"a stale volume is degraded", "stale", "", codes.OK, []string{"DEGRADED StaleDenied"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			resp, err := s.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: c.id, VolumePublishPath: c.path})
			var got []string
			for _, entry := range resp.GetVolumeHealth().GetHealthStatuses() {
				got = append(got, entry.Status.String()+" "+entry.Reason)
			}
			if diff := cmp.Diff(c.want, got); diff != "" || status.Code(err) != c.code {
				t.Errorf("error %v, want %v; statuses (-want +got):\n%s", err, c.code, diff)
			}
		})
	}
}

// Tokens in volume attributes reached the logs of other drivers
// (CVE-2023-2878).
func TestNoErrorAndNoLogShowsATokenOrASecret(t *testing.T) {
	canary := rand.Text()
	var logs bytes.Buffer
	klog.LogToStderr(false)
	klog.SetOutput(&logs)
	t.Cleanup(func() { klog.LogToStderr(true) })
	expired := fmt.Sprintf(`{"vault":{"token":%q,"expirationTimestamp":%q}}`, canary, canary)
	for _, text := range []string{canary, `{"vault":"` + canary + `"}`, expired, `{"vault":{"token":"` + canary} {
		for _, place := range []string{"attributes", "secrets"} {
			req := validRequest()
			req.Secrets = map[string]string{"client": canary}
			if place == "secrets" {
				req.Secrets[tokensKey] = text
			} else {
				req.VolumeContext[tokensKey] = text
			}
			pub := &recorder{}
			_, err := (&node.Server{Publisher: pub}).NodePublishVolume(t.Context(), req)
			if err == nil {
				t.Errorf("%s with tokens %.10q were accepted", place, text)
			}
			klog.InfoS("seen", "error", err, "volumes", pub.volumes)
			if strings.Contains(fmt.Sprintf("%+v %#v", err, pub.volumes), canary) {
				t.Errorf("the canary is in %v or %+v", err, pub.volumes)
			}
		}
	}
	klog.Flush()
	if strings.Contains(logs.String(), canary) {
		t.Errorf("the canary is in the log: %s", logs.String())
	}
}

// FuzzPublishRequest feeds requests of any content: they are refused or
// become a volume that package publish may rely on.
func FuzzPublishRequest(f *testing.F) {
	for _, change := range []func(*csi.NodePublishVolumeRequest){
		func(*csi.NodePublishVolumeRequest) {},
		func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[tokensKey] = `{"a":{"token":"t"}}` },
		func(r *csi.NodePublishVolumeRequest) { r.Secrets = map[string]string{tokensKey: "{", "k": "v"} },
		func(r *csi.NodePublishVolumeRequest) { r.TargetPath = "/../x" },
	} {
		req := validRequest()
		change(req)
		wire, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire)
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		req := &csi.NodePublishVolumeRequest{}
		if proto.Unmarshal(wire, req) != nil {
			return
		}
		pub := &recorder{}
		_, err := (&node.Server{Publisher: pub}).NodePublishVolume(context.Background(), req)
		switch {
		case err != nil && status.Code(err) != codes.InvalidArgument:
			t.Errorf("error = %v, want InvalidArgument", err)
		case err == nil:
			mustBeUsable(t, pub.volumes[0])
		}
	})
}

func mustBeUsable(t *testing.T, v volume.Volume) {
	t.Helper()
	switch {
	case v.ID == "" || !filepath.IsAbs(v.Target) || strings.Contains(v.Target+"/", "/../"):
		t.Errorf("ID %q, target %q", v.ID, v.Target)
	case v.Class.Name == "" || v.Class.Namespace == "" || v.Pod.UID == "" || v.Pod.Name == "" || v.Pod.Namespace != v.Class.Namespace:
		t.Errorf("class %v, pod %+v", v.Class, v.Pod)
	}
	if _, ok := v.Attributes[tokensKey]; ok {
		t.Error("the attributes still hold the tokens")
	}
	if _, err := json.Marshal(v.Attributes); err != nil {
		t.Error(err)
	}
	if _, ok := v.Credentials[tokensKey]; ok {
		t.Error("the credentials still hold the tokens")
	}
}
