package main

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// A peer is a driver that runs as a process, and what kubelet knows of it.
type peer struct {
	name      string
	namespace string // of its pods
	program   string
	args      func(rotation time.Duration) ([]string, error)
	dir       string
	world     *world

	process  *process
	conn     *grpc.ClientConn
	node     csi.NodeClient
	identity csi.IdentityClient

	cgroup   cgroup       // in which the process is started
	repeated atomic.Int64 // calls that failed at first
}

func (p *peer) socket() string   { return filepath.Join(p.dir, p.name+".sock") }
func (p *peer) nodeName() string { return "node-" + p.name }

// ourArgs are the flags of the chart.
func (w *world) ourArgs(rotation time.Duration) ([]string, error) {
	dir := w.path("keymount")
	metrics, err := freeAddress()
	return []string{
		"--endpoint=unix://" + filepath.Join(dir, "keymount.sock"), "--nodeid=node-keymount", "--kubelet-root=" + filepath.Join(dir, "kubelet"),
		"--registration-dir=" + dir, "--kubelet-registration-path=" + filepath.Join(dir, "keymount.sock"),
		"--provider-volume=" + w.path("providers"), "--additional-provider-volume-paths=" + w.path("none"),
		"--state-dir=" + filepath.Join(dir, "state"), "--metrics-addr=" + metrics,
		"--enable-secret-rotation=true", "--rotation-poll-interval=" + rotation.String(), "--kubeconfig=" + w.cluster.kubeconfig, "--v=0",
	}, err
}

// upstreamArgs are the flags of its chart, with rotation enabled.
func (w *world) upstreamArgs(rotation time.Duration) ([]string, error) {
	metrics, err := freeAddress()
	return []string{
		"--endpoint=unix://" + w.path("upstream", "upstream.sock"), "--nodeid=node-upstream",
		"--provider-volume=" + w.path("providers"), "--additional-provider-volume-paths=" + w.path("none"), "--metrics-addr=" + metrics,
		"--enable-secret-rotation=true", "--rotation-poll-interval=" + rotation.String(), "--kubeconfig=" + w.cluster.kubeconfig,
	}, err
}

// start starts the process and returns how long it took until it answered.
func (p *peer) start(ctx context.Context, rotation time.Duration) (time.Duration, error) {
	args, err := p.args(rotation)
	if err != nil {
		return 0, err
	}
	if err := os.Remove(p.socket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	program, args := p.cgroup.wrap(p.program, args)
	if p.process, err = startProcess(p.name, p.world.path("logs"), program, args...); err != nil {
		return 0, err
	}
	// grpc itself would try again only after a second.
	if err := p.process.await(ctx, time.Millisecond, func(ctx context.Context) error { return dialable(ctx, p.socket()) }); err != nil {
		return 0, err
	}
	if p.conn, err = grpc.NewClient("unix://"+p.socket(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		return 0, err
	}
	p.node, p.identity = csi.NewNodeClient(p.conn), csi.NewIdentityClient(p.conn)
	if err := p.process.await(ctx, time.Millisecond, p.wake); err != nil {
		return 0, err
	}
	return time.Since(p.process.began), nil
}

func dialable(ctx context.Context, socket string) error {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

// wake makes an empty call. A process that slept answers its first call late,
// and nobody shall look better or worse for that.
func (p *peer) wake(ctx context.Context) error {
	_, err := p.identity.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	return err
}

// memory is that of the process, and of its cgroup.
func (p *peer) memory() (memory, error) {
	m, err := memoryOf(p.process)
	if err != nil {
		return m, err
	}
	m.Cgroup, err = p.cgroup.memory()
	return m, err
}

// stop ends the process, if it runs.
func (p *peer) stop() error {
	if p.process == nil {
		return nil
	}
	err := errors.Join(p.conn.Close(), p.process.stop())
	p.process = nil
	return err
}
