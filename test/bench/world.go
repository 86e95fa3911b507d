package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keymount/keymount/test/bench/fake"
	"github.com/keymount/keymount/test/perf/floor"
)

const (
	providerName = "bench" // of the fake
	ourName      = "keymount"
	upstreamName = "upstream"
)

// A world is all that both drivers share, and the drivers.
type world struct {
	dir     string
	self    string // this program
	built   *programs
	cluster *cluster
	control *fake.Control
	bare    *peer   // a gRPC server that does nothing
	peers   []*peer // ours first
	cleanup []func() error
	serial  int
}

// newWorld starts what the drivers need, and not yet them. What lies in memory
// goes in the end in one piece, with all volumes that are mounted below.
func newWorld(ctx context.Context, repository string, built *programs) (_ *world, err error) {
	dir, err := os.MkdirTemp("", "kmb") // the path of a socket must be short
	if err != nil {
		return nil, err
	}
	w := &world{dir: dir, built: built}
	w.defers(func() error { return os.Remove(dir) })
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
		return nil, fmt.Errorf("mount %s: %w", dir, err)
	}
	w.defers(func() error { return unix.Unmount(dir, unix.MNT_DETACH) })
	for _, folder := range []string{"bin", "logs", "providers", "none", "own", "floor"} {
		if err := os.Mkdir(w.path(folder), 0o755); err != nil {
			return nil, err
		}
	}
	if w.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if w.cluster, err = w.startCluster(ctx, w.path("cluster")); err != nil {
		return nil, err
	}
	if err := w.cluster.install(ctx, filepath.Join(repository, "deploy", "manifests", "crds.yaml")); err != nil {
		return nil, err
	}
	return w, errors.Join(w.startProvider(ctx), w.startBare(ctx), w.addPeers(ctx))
}

func (w *world) defers(f func() error) { w.cleanup = append(w.cleanup, f) }

func (w *world) close() error {
	var errs []error
	for len(w.cleanup) > 0 {
		last := len(w.cleanup) - 1
		errs = append(errs, w.cleanup[last]())
		w.cleanup = w.cleanup[:last]
	}
	return errors.Join(errs...)
}

func (w *world) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

// startProgram starts a process that runs to the end.
func (w *world) startProgram(name, program string, args ...string) (*process, error) {
	p, err := startProcess(name, w.path("logs"), program, args...)
	if err == nil {
		w.defers(p.stop)
	}
	return p, err
}

// link returns a path by which the servers in one program are called.
func (w *world) link(name string) string {
	path := w.path("bin", name)
	_ = os.Symlink(w.built.kube, path) // what fails is seen when it is started
	return path
}

func (w *world) startProvider(ctx context.Context) error {
	control := w.path("control.sock")
	p, err := w.startProgram("provider", w.self, fake.Command, w.path("providers", providerName+".sock"), control)
	if err != nil {
		return err
	}
	w.control = fake.Dial(control)
	return p.await(ctx, 10*time.Millisecond, func(ctx context.Context) error { _, err := w.control.Stats(ctx); return err })
}

func (w *world) startBare(ctx context.Context) error {
	w.bare = &peer{name: "bare", dir: w.dir, world: w, program: w.self}
	w.bare.args = func(time.Duration) ([]string, error) { return []string{floor.Command, w.bare.socket()}, nil }
	w.defers(w.bare.stop)
	_, err := w.bare.start(ctx, 0)
	return err
}

// addPeers adds both drivers, each with a namespace of its own.
func (w *world) addPeers(ctx context.Context) error {
	for _, p := range []*peer{
		{name: ourName, program: w.built.ours, args: w.ourArgs},
		{name: upstreamName, program: w.built.upstream, args: w.upstreamArgs},
	} {
		p.world, p.dir, p.namespace = w, w.path(p.name), "bench-"+p.name
		if err := os.MkdirAll(filepath.Join(p.dir, "kubelet", "pods"), 0o750); err != nil {
			return err
		}
		if err := w.cluster.makeNamespace(ctx, p.namespace); err != nil {
			return err
		}
		w.peers = append(w.peers, p)
		w.defers(p.stop)
	}
	return nil
}

// restart starts both drivers anew, with nothing published.
func (w *world) restart(ctx context.Context, rotation time.Duration) error {
	for _, p := range w.peers {
		if err := p.stop(); err != nil {
			return err
		}
		if _, err := p.start(ctx, rotation); err != nil {
			return err
		}
	}
	return nil
}

// makeClasses adds a class to the namespaces of both drivers.
func (w *world) makeClasses(ctx context.Context, name string, parameters map[string]string) error {
	for _, p := range w.peers {
		if err := w.cluster.makeClass(ctx, p.namespace, name, parameters); err != nil {
			return err
		}
	}
	return nil
}
