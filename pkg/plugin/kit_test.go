package plugin_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/grpclog"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

func TestMain(m *testing.M) {
	grpclog.SetLoggerV2(grpclog.NewLoggerV2WithVerbosity(&grpcLogs, &grpcLogs, &grpcLogs, 99))
	goleak.VerifyTestMain(m)
}

// patience bounds waits that end at once unless something is broken.
const patience = 20 * time.Second

// values compares secrets by their bytes.
var values = cmp.Comparer(secret.Value.Equal)

// fetch is a Provider made of one function.
type fetch func(ctx context.Context, req *provider.Request) (*provider.Bundle, error)

func (f fetch) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	return f(ctx, req)
}

// says returns a Provider of one file with that content.
func says(content string) provider.Provider {
	return fetch(func(context.Context, *provider.Request) (*provider.Bundle, error) {
		return &provider.Bundle{
			Files:    []provider.File{{Path: "file", Mode: 0o644, Data: secret.New([]byte(content))}},
			Versions: provider.Versions{"object": fmt.Sprintf("%d %.8s", len(content), content)},
		}, nil
	})
}

// foreign is a v1alpha1 provider that is not ours.
type foreign struct {
	v1alpha1.UnimplementedCSIDriverProviderServer
	mount func(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error)
}

func (f foreign) Mount(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	return f.mount(ctx, req)
}

// shortDir returns a new directory. The path of t.TempDir, which holds the
// test's name, may be too long for a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "km")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// newDir returns a Dir over dirs that is closed with the test.
func newDir(t testing.TB, opts *plugin.Options, dirs ...string) *plugin.Dir {
	t.Helper()
	d := plugin.NewDir(dirs, opts)
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	})
	return d
}

// lookup returns the provider "test" of d.
func lookup(t testing.TB, d *plugin.Dir) provider.Provider {
	t.Helper()
	p, err := d.Lookup("test")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// listen listens as the provider "test" in dir, on a socket file of its own.
func listen(t testing.TB, dir string) *net.UnixListener {
	t.Helper()
	path := filepath.Join(dir, "test.sock")
	_ = os.Remove(path)
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	lis.SetUnlinkOnClose(false) // what a killed process leaves behind
	t.Cleanup(func() { _ = lis.Close() })
	return lis
}

// serve serves p on lis until the test ends, or stop is called.
func serve(t testing.TB, lis net.Listener, p provider.Provider, opts *plugin.ServeOptions) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- plugin.Serve(ctx, lis, p, opts) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := receive(t, done); err != nil {
			t.Errorf("Serve() = %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// serveForeign serves a provider that is not ours on lis until the test ends.
func serveForeign(t testing.TB, lis net.Listener, p foreign, opts ...grpc.ServerOption) {
	t.Helper()
	server := grpc.NewServer(opts...)
	v1alpha1.RegisterCSIDriverProviderServer(server, p)
	done := make(chan error, 1)
	go func() { done <- server.Serve(lis) }()
	t.Cleanup(func() {
		server.Stop()
		if err := receive(t, done); err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			t.Errorf("Serve() = %v", err)
		}
	})
}

// replies returns a foreign provider that always gives this reply.
func replies(reply *v1alpha1.MountResponse) foreign {
	return foreign{mount: func(context.Context, *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) { return reply, nil }}
}

// receive returns the next value of c.
func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing happened")
		panic("unreachable")
	}
}

// content returns what says said.
func content(t testing.TB, p provider.Provider) string {
	t.Helper()
	bundle, err := p.Fetch(t.Context(), &provider.Request{Class: "ns/class", Mode: 0o644})
	if err != nil {
		t.Fatalf("Fetch: %v", err)
	}
	return string(bundle.Files[0].Data.Reveal())
}

// canary returns a secret that occurs nowhere else.
func canary() string { return "canary-" + rand.Text() }

// A counter counts the connections of a listener, and tells when one ends.
type counter struct {
	net.Listener
	accepted atomic.Int32
	closed   chan struct{}
}

func count(lis net.Listener) *counter {
	return &counter{Listener: lis, closed: make(chan struct{}, 100)}
}

func (c *counter) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c.accepted.Add(1)
	return &counted{conn, c}, nil
}

type counted struct {
	net.Conn
	c *counter
}

func (c *counted) Close() error {
	err := c.Conn.Close()
	if err == nil {
		c.c.closed <- struct{}{}
	}
	return err
}
