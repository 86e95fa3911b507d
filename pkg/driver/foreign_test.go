package driver_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/volume"
)

// A foreign provider speaks v1alpha1 and nothing of ours.
type foreign struct {
	v1alpha1.UnimplementedCSIDriverProviderServer

	mu     sync.Mutex
	asked  []*v1alpha1.MountRequest
	answer answer
}

type answer func(context.Context, *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error)

func (f *foreign) Mount(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	f.mu.Lock()
	f.asked = append(f.asked, proto.CloneOf(req))
	answer := f.answer
	f.mu.Unlock()
	return answer(ctx, req)
}

// answers makes f answer so from now on.
func (f *foreign) answers(a answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = a
}

// requests returns those that f got until now.
func (f *foreign) requests() []*v1alpha1.MountRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asked
}

// holds answers with a password, and its value as its version.
func holds(value string) answer {
	return func(context.Context, *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		return &v1alpha1.MountResponse{
			ObjectVersion: []*v1alpha1.ObjectVersion{{Id: "password", Version: value}},
			Files:         []*v1alpha1.File{{Path: "password", Mode: 0o644, Contents: []byte(value)}},
		}, nil
	}
}

// demands answers so only where there is a token of the audience.
func demands(audience string, then answer) answer {
	return func(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		if !strings.Contains(req.GetAttributes(), fmt.Sprintf(`{\"%s\":{\"token\"`, audience)) {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("keymount-missing-audience-bin", audience))
			return nil, status.Errorf(codes.PermissionDenied, "there is no token of audience %q", audience)
		}
		return then(ctx, req)
	}
}

// serveForeign serves a foreign provider from a socket in the folder.
func (r *rig) serveForeign(folder string, a answer) *foreign {
	r.t.Helper()
	f := &foreign{answer: a}
	if err := os.MkdirAll(r.path(folder), 0o755); err != nil {
		r.t.Fatal(err)
	}
	lis, err := net.Listen("unix", filepath.Join(r.path(folder), "foreign.sock"))
	if err != nil {
		r.t.Fatal(err)
	}
	server := grpc.NewServer()
	v1alpha1.RegisterCSIDriverProviderServer(server, f)
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	r.t.Cleanup(func() {
		server.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			r.t.Error(err)
		}
	})
	return f
}

// newForeignRig returns a rig whose class is of a foreign provider.
func newForeignRig(t *testing.T, parameters map[string]string) (*rig, *foreign) {
	t.Helper()
	r := prepareRig(t)
	r.declare("classes", "foreign", parameters)
	return r, r.serveForeign("providers", holds("first"))
}

// nothingIsLeft looks for a target, and for what is remembered of it.
func (r *rig) nothingIsLeft(id string) {
	r.t.Helper()
	if _, err := os.Lstat(r.target(id)); !errors.Is(err, os.ErrNotExist) {
		r.t.Errorf("the target of %s is left: %v", id, err)
	}
	if rec, ok := r.driver.Volumes().Get(volume.ID(id)); ok {
		r.t.Errorf("%s is remembered: %v", id, rec)
	}
	if files, _ := filepath.Glob(filepath.Join(r.config.StateDir, "volumes", "*.json")); len(files) > 0 {
		r.t.Errorf("records are left: %v", files)
	}
}

func TestAForeignProviderIsServedToTheEnd(t *testing.T) {
	r, f := newForeignRig(t, map[string]string{"rotationInterval": "1s"})
	r.start()
	r.mustPublish("v")
	r.becomes("v", "first")
	f.answers(holds("second"))
	r.becomes("v", "second") // on the driver's own clock: nobody tells, and kubelet does not call
	if err := r.unpublish("v"); err != nil {
		t.Fatal(err)
	}
	r.nothingIsLeft("v")
	first, next := f.requests()[0], f.requests()[1]
	first.CurrentObjectVersion = []*v1alpha1.ObjectVersion{{Id: "password", Version: "first"}}
	if diff := cmp.Diff(first, next, protocmp.Transform()); diff != "" {
		t.Errorf("the second request is not the first with what is held (-want +got):\n%s", diff)
	}
}

func TestTheCodeAndTheWordsOfAForeignProviderReachKubelet(t *testing.T) {
	r, f := newForeignRig(t, nil)
	r.start()
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		t.Run(code.String(), func(t *testing.T) {
			words := "the words for " + code.String()
			f.answers(func(context.Context, *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
				return nil, status.Error(code, words)
			})
			err := r.publish("v")
			if status.Code(err) != code || !strings.Contains(err.Error(), words) {
				t.Errorf("publish = %v, want %v and %q", err, code, words)
			}
			r.nothingIsLeft("v")
		})
	}
}

// These are the bytes that other people's providers parse.
func TestARequestOfKubeletBecomesThisRequestToAProvider(t *testing.T) {
	const tokens = `{"vault":{"token":"jwt","expirationTimestamp":"2130-01-02T03:04:05Z"}}`
	const pod = `"csi.storage.k8s.io/ephemeral":"true",` +
		`"csi.storage.k8s.io/pod.name":"p-v","csi.storage.k8s.io/pod.namespace":"ns","csi.storage.k8s.io/pod.uid":"u-v",` +
		`"csi.storage.k8s.io/serviceAccount.name":"sa",`
	const class = `"objects":"- a\n","secretProviderClass":"c","vaultAddress":"https://vault"}`
	const withTokens = "{" + pod + `"csi.storage.k8s.io/serviceAccount.tokens":"{\"vault\":{\"token\":\"jwt\",\"expirationTimestamp\":\"2130-01-02T03:04:05Z\"}}",` + class
	const key = "csi.storage.k8s.io/serviceAccount.tokens"
	for _, c := range []struct {
		name   string
		change func(*csi.NodePublishVolumeRequest)
		want   *v1alpha1.MountRequest // but for its target
	}{
		{
			"a plain one", func(*csi.NodePublishVolumeRequest) {},
			&v1alpha1.MountRequest{Attributes: "{" + pod + class, Secrets: "null", Permission: "420"},
		},
		{
			"with tokens among the attributes", func(req *csi.NodePublishVolumeRequest) { req.VolumeContext[key] = tokens },
			&v1alpha1.MountRequest{Attributes: withTokens, Secrets: "null", Permission: "420"},
		},
		{
			"with tokens among the secrets, and a secret", func(req *csi.NodePublishVolumeRequest) {
				req.Secrets = map[string]string{key: tokens, "client": "id", "another": `"`}
			},
			&v1alpha1.MountRequest{Attributes: withTokens, Secrets: `{"another":"\"","client":"id"}`, Permission: "420"},
		},
		{
			"with the pod's group", func(req *csi.NodePublishVolumeRequest) {
				req.VolumeCapability.GetMount().VolumeMountGroup = "0"
			},
			&v1alpha1.MountRequest{Attributes: "{" + pod + class, Secrets: "null", Permission: "416"},
		},
		{
			"without the pod's own attributes", func(req *csi.NodePublishVolumeRequest) {
				req.VolumeContext["vaultAddress"], req.VolumeContext["extra"] = "https://evil", "extra"
			},
			&v1alpha1.MountRequest{Attributes: "{" + pod + class, Secrets: "null", Permission: "420"},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, f := newForeignRig(t, map[string]string{"rotationInterval": "24h", "objects": "- a\n", "vaultAddress": "https://vault"})
			r.start()
			req := r.request("v")
			c.change(req)
			if err := r.send(req); err != nil {
				t.Fatal(err)
			}
			c.want.TargetPath = r.target("v")
			if diff := cmp.Diff([]*v1alpha1.MountRequest{c.want}, f.requests(), protocmp.Transform()); diff != "" {
				t.Errorf("requests (-want +got):\n%s", diff)
			}
		})
	}
}
