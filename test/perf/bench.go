package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/test/perf/floor"
)

// sizes are the numbers of files that a volume is measured with.
var sizes = []int{1, 5, 20}

// A bench is a driver process, a bare gRPC process, and a provider in this one.
type bench struct {
	dir     string
	store   *store
	node    csi.NodeClient
	driver  csi.IdentityClient // of the same process as node
	bare    csi.IdentityClient
	cleanup []func() error
	serial  int
}

func newBench(ctx context.Context) (*bench, error) {
	dir, err := os.MkdirTemp("", "keymount-perf-*")
	if err != nil {
		return nil, err
	}
	b := &bench{dir: dir, store: newStore()}
	b.cleanup = append(b.cleanup, func() error { return os.RemoveAll(dir) })
	// Everything but the program lies in memory, as /run does on a node.
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return nil, errors.Join(fmt.Errorf("mount: %w", err), b.close())
	}
	b.cleanup = append(b.cleanup, func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	if err := errors.Join(b.writeClasses(), b.serveStore(ctx), b.startDriver(), b.startBare()); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *bench) close() error {
	var errs []error
	for len(b.cleanup) > 0 {
		last := len(b.cleanup) - 1
		errs = append(errs, b.cleanup[last]())
		b.cleanup = b.cleanup[:last]
	}
	return errors.Join(errs...)
}

func (b *bench) path(elements ...string) string {
	return filepath.Join(append([]string{b.dir}, elements...)...)
}

func (b *bench) writeClasses() error {
	var text strings.Builder
	for _, files := range sizes {
		fmt.Fprintf(&text, "---\napiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: %s, namespace: ns}\nspec: {provider: perf, parameters: {files: \"%d\", rotationInterval: 24h}}\n", className(files), files)
	}
	return errors.Join(
		os.Mkdir(b.path("classes"), 0o755), os.Mkdir(b.path("providers"), 0o755),
		os.WriteFile(b.path("classes", "classes.yaml"), []byte(text.String()), 0o644))
}

func className(files int) string { return fmt.Sprintf("files-%d", files) }

func (b *bench) serveStore(ctx context.Context) error {
	lis, err := net.Listen("unix", b.path("providers", "perf.sock"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- plugin.Serve(ctx, lis, b.store, nil) }()
	b.cleanup = append(b.cleanup, func() error { cancel(); return <-served })
	return nil
}

// driverArgs are the flags of a driver in b's folder.
func (b *bench) driverArgs() []string {
	return []string{
		"--nodeid=perf", "--kubelet-root=", "--endpoint=unix://" + b.path("csi.sock"), "--metrics-addr=", "--state-dir=" + b.path("state"),
		"--class-dir=" + b.path("classes"), "--provider-volume=" + b.path("providers"), "--additional-provider-volume-paths=",
	}
}

func (b *bench) startDriver() error {
	binary := b.path("keymount-driver")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "github.com/keymount/keymount/cmd/keymount-driver").CombinedOutput(); err != nil {
		return fmt.Errorf("build the driver: %w\n%s", err, out)
	}
	conn, err := b.start(b.path("csi.sock"), binary, b.driverArgs()...)
	if err != nil {
		return fmt.Errorf("start the driver: %w", err)
	}
	b.node, b.driver = csi.NewNodeClient(conn), csi.NewIdentityClient(conn)
	return nil
}

func (b *bench) startBare() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	conn, err := b.start(b.path("bare.sock"), self, floor.Command, b.path("bare.sock"))
	if err != nil {
		return fmt.Errorf("start the bare gRPC server: %w", err)
	}
	b.bare = csi.NewIdentityClient(conn)
	return nil
}

// start runs a process that serves the CSI Identity service on a socket, and
// connects to it.
func (b *bench) start(socket, binary string, args ...string) (*grpc.ClientConn, error) {
	process := exec.Command(binary, args...)
	process.Stderr = os.Stderr
	if err := process.Start(); err != nil {
		return nil, err
	}
	b.cleanup = append(b.cleanup, func() error {
		return errors.Join(process.Process.Signal(syscall.SIGTERM), process.Wait())
	})
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	b.cleanup = append(b.cleanup, conn.Close)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_, err = csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
	return conn, err
}
