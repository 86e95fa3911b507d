package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/node"
	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/coalesce"
	"github.com/keymount/keymount/pkg/provider/limit"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/rotate"
	"github.com/keymount/keymount/pkg/serve"
	"github.com/keymount/keymount/pkg/tmpfs"
	"github.com/keymount/keymount/pkg/volume"
)

// grace is how long calls that are running may take to end once the driver is
// told to stop. Kubernetes allows 30 s.
const grace = 20 * time.Second

// Options replace parts of the driver.
type Options struct {
	Mounts publish.Mounter // nil: memory file systems
}

// A Driver is the node plugin of one node.
type Driver struct {
	config  Config
	plugins *plugin.Dir
	shared  *coalesce.Group
	classes *class.Dir
	volumes *volume.Dir
	service *publish.Service
	rotator *rotate.Rotator
	watcher *watcher
	health  serve.Health
	server  *grpc.Server
}

// New puts a driver together. It opens the state folder and reads the classes;
// it starts nothing.
func New(c Config, opts *Options) (*Driver, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	d := &Driver{config: c}
	mounts, err := mounter(opts)
	if err != nil {
		return nil, err
	}
	if d.classes, err = class.OpenDir(c.ClassDir, nil); err != nil {
		return nil, fmt.Errorf("open --class-dir: %w", err)
	}
	if d.volumes, err = volume.OpenDir(filepath.Join(c.StateDir, "volumes")); err != nil {
		return nil, fmt.Errorf("open --state-dir: %w", err)
	}
	for _, reason := range d.volumes.Dropped() {
		klog.InfoS("Record of a volume was dropped", "reason", reason)
	}
	d.plugins = plugin.NewDir(c.providerDirs(), &plugin.Options{
		MaxRecvMsgSize:   c.MaxRecvMsgSize,
		WithholdVersions: !c.SendHeld,
		Version:          c.Version,
	})
	d.shared = coalesce.New(nil)
	providers := provider.Decorate(d.plugins.Lookup,
		limit.New(&limit.Options{Timeout: c.ProviderTimeout}).Middleware(),
		d.shared.Middleware(),
	)
	d.service = publish.New(publish.Config{
		Classes: d.classes, Providers: providers, Mounts: mounts, Volumes: d.volumes,
		Schedule:      c.schedule(),
		Limits:        tmpfs.Options{Size: int64(c.TmpfsSize), Inodes: inodesPerVolume},
		AttributesWin: c.AttributesWin,
	})
	d.watcher = &watcher{providers: providers}
	published := d.watcher.observe(d.service)
	d.rotator = rotate.New(published, d.volumes, nil)
	d.watcher.rotator = d.rotator
	d.health.Add("state folder", func(context.Context) error { return writable(c.StateDir) })
	d.health.Add("class folder", func(context.Context) error { return listable(c.ClassDir) })
	d.server = grpc.NewServer(grpc.ChainUnaryInterceptor(serve.Unary(nil)), grpc.ChainStreamInterceptor(serve.Stream()))
	(&node.Server{
		Name: c.DriverName, Version: c.Version, NodeID: c.NodeID,
		Publisher: d.rotator.Observe(published), Volumes: d.volumes, Mounted: mounts.Mounted, Ready: d.health.Ready,
	}).Register(d.server)
	return d, nil
}

func mounter(opts *Options) (publish.Mounter, error) {
	if opts != nil && opts.Mounts != nil {
		return opts.Mounts, nil
	}
	return tmpfs.New()
}

func (c *Config) schedule() *publish.Schedule {
	if !c.Rotation {
		return nil
	}
	return &publish.Schedule{Interval: c.RotationPeriod, Node: c.NodeID}
}

// writable reports why no file can be made in dir.
func writable(dir string) error {
	f, err := os.CreateTemp(dir, ".ready-*")
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// listable reports why the files of dir cannot be listed.
func listable(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	_, err = f.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		err = nil // it is empty
	}
	return errors.Join(err, f.Close())
}

// Volumes returns what is known of the published volumes.
func (d *Driver) Volumes() volume.Store { return d.volumes }

// Run serves until ctx ends or a part fails. It then takes no more calls, lets
// those that run end within a bound, and leaves the mounts alone: pods keep
// their secrets while the driver is replaced.
func (d *Driver) Run(ctx context.Context) error {
	defer d.close()
	lis, err := serve.Listen(d.config.Endpoint, nil)
	if err != nil {
		return fmt.Errorf("listen on --endpoint: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serve.GRPC(ctx, lis, d.server, grace) })
	group.Go(func() error { return serve.HTTP(ctx, d.config.MetricsAddr, &d.health, grace) })
	group.Go(func() error {
		if err := d.service.Reconcile(ctx); err != nil {
			klog.ErrorS(err, "Due times of volumes could not be brought up to date")
		}
		return d.rotator.Run(ctx)
	})
	if d.config.Rotation {
		group.Go(func() error { return d.classes.Changes(ctx, d.watcher.classChanged) })
		group.Go(func() error { return d.watcher.run(ctx, d.volumes.List()) })
	}
	return group.Wait()
}

// close waits for what is still under way, which is bounded.
func (d *Driver) close() {
	d.service.Close()
	if err := errors.Join(d.shared.Close(), d.plugins.Close(), d.volumes.Close()); err != nil {
		klog.ErrorS(err, "Stop")
	}
}
