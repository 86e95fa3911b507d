package fake

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
)

// start serves a provider and returns both its ends.
func start(t *testing.T) (v1alpha1.CSIDriverProviderClient, *Control) {
	t.Helper()
	dir := t.TempDir()
	socket, control := filepath.Join(dir, "p.sock"), filepath.Join(dir, "c.sock")
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx, socket, control, 10) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the provider ended with %v", err)
		}
	})
	return v1alpha1.NewCSIDriverProviderClient(conn), Dial(control)
}

func mount(t *testing.T, c v1alpha1.CSIDriverProviderClient, attributes string) (*v1alpha1.MountResponse, error) {
	t.Helper()
	return c.Mount(t.Context(), &v1alpha1.MountRequest{Attributes: attributes}, grpc.WaitForReady(true))
}

func TestAClassSaysHowManyFilesAndHowLate(t *testing.T) {
	plugin, _ := start(t)
	began := time.Now()
	resp, err := mount(t, plugin, `{"files": "3", "latency": "30ms"}`)
	if err != nil || len(resp.GetFiles()) != 3 || len(resp.GetObjectVersion()) != 3 {
		t.Fatalf("Mount = %d files, %d versions, %v, want 3", len(resp.GetFiles()), len(resp.GetObjectVersion()), err)
	}
	if took := time.Since(began); took < 30*time.Millisecond {
		t.Errorf("Mount took %v, want 30ms at least", took)
	}
	if f := resp.GetFiles()[2]; f.GetPath() != "secret-02" || string(f.GetContents()) != "aaaaaaaaaa" {
		t.Errorf("the last file is %v", f)
	}
}

func TestAnUnreadableClassIsRefused(t *testing.T) {
	plugin, _ := start(t)
	for _, attributes := range []string{"", "{}", `{"files": "1"}`, `{"files": "x", "latency": "0s"}`} {
		if _, err := mount(t, plugin, attributes); status.Code(err) != codes.InvalidArgument {
			t.Errorf("Mount with %q = %v, want InvalidArgument", attributes, err)
		}
	}
}

func TestATurnChangesAllSecretsAndFirstCallsAreRemembered(t *testing.T) {
	plugin, control := start(t)
	const attributes = `{"files": "1", "latency": "0s", "csi.storage.k8s.io/pod.name": "web"}`
	for _, want := range []string{"aaaaaaaaaa", "bbbbbbbbbb"} {
		for range 2 {
			resp, err := mount(t, plugin, attributes)
			if err != nil || string(resp.GetFiles()[0].GetContents()) != want {
				t.Fatalf("Mount = %v, %v, want %s", resp, err, want)
			}
		}
		if want == "bbbbbbbbbb" {
			break
		}
		if err := control.Turn(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	after, err := control.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ask := after.Asked["web"]; after.Mounts != 4 || after.Generation != 1 || ask.Generation != 1 || ask.At.IsZero() {
		t.Errorf("the provider was asked %+v, want 4 mounts of generation 1", after)
	}
}
