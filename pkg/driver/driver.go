package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/audit"
	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/kube/registration"
	"github.com/keymount/keymount/pkg/metrics"
	"github.com/keymount/keymount/pkg/node"
	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/coalesce"
	"github.com/keymount/keymount/pkg/provider/limit"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/rotate"
	"github.com/keymount/keymount/pkg/serve"
	"github.com/keymount/keymount/pkg/tmpfs"
	"github.com/keymount/keymount/pkg/trace"
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
	config   Config
	plugins  *plugin.Dir
	shared   *coalesce.Group
	classes  class.Source
	cluster  *cluster // nil where classes come from a folder
	volumes  *volume.Dir
	releases *volume.Dir // leases that are to be given back
	service  *publish.Service
	rotator  *rotate.Rotator
	watcher  *watcher
	core     serve.Health // what a publish needs of the driver itself
	health   serve.Health // and what the pod's probes are told
	metrics  *metrics.Metrics
	audit    *audit.Log           // nil: nothing is written down
	kubelet  *registration.Server // nil where a sidecar registers the driver
	server   *grpc.Server
}

// New puts a driver together. It opens the state folder and reads the classes;
// it starts nothing but the audit log.
func New(c Config, opts *Options) (*Driver, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	d := &Driver{config: c}
	mounts, err := mounter(opts)
	if err != nil {
		return nil, err
	}
	if err := d.openState(); err != nil {
		return nil, err
	}
	if err := errors.Join(d.findClasses(), d.openAudit()); err != nil {
		return nil, errors.Join(err, d.closeState())
	}
	d.plugins = plugin.NewDir(c.providerDirs(), &plugin.Options{
		MaxRecvMsgSize:   c.MaxRecvMsgSize,
		WithholdVersions: !c.SendHeld,
		Users:            c.ProviderUsers,
		Version:          c.Version,
	})
	d.shared = coalesce.New(&coalesce.Options{GiveBack: d.giveBack})
	d.metrics = metrics.New(d.volumes, c.Version)
	if d.audit != nil {
		d.metrics.Audit(d.audit.Failures)
	}
	providers := d.audited(d.cluster.complete(d.plugins.Lookup),
		d.metrics.Called,
		limit.New(&limit.Options{Timeout: c.ProviderTimeout}).Middleware(),
		d.shared.Middleware(),
		d.metrics.Wanted,
		tracedFetch,
	)
	d.service = publish.New(publish.Config{
		Classes: d.classes, Providers: providers, Mounts: mounts, Volumes: d.volumes,
		Releases: d.releases, Lost: lost,
		MaxVolumes:    maxVolumes,
		NeedsFiles:    d.needsFiles(),
		Schedule:      c.schedule(),
		Limits:        tmpfs.Options{Size: int64(c.TmpfsSize), Inodes: inodesPerVolume},
		AttributesWin: c.AttributesWin,
	})
	d.watcher = &watcher{providers: providers}
	published := d.watcher.observe(d.metrics.Observe(d.auditedPublisher(d.service)))
	if d.cluster != nil {
		published = d.cluster.observe(published)
	}
	published = &traced{published, d.volumes}
	d.rotator = rotate.New(published, d.volumes, nil)
	d.watcher.rotator = d.rotator
	if err := d.addChecks(); err != nil {
		return nil, errors.Join(err, d.closeState())
	}
	d.server = grpc.NewServer(append(serve.Cleared(), trace.Server(), grpc.ChainUnaryInterceptor(serve.Unary(nil)), grpc.ChainStreamInterceptor(serve.Stream()))...)
	(&node.Server{
		Name: c.DriverName, Version: c.Version, NodeID: c.NodeID, Root: c.podsDir(),
		Publisher: d.rotator.Observe(published), Volumes: d.volumes, Mounted: mounts.Mounted, Ready: d.core.Ready,
	}).Register(d.server)
	return d, nil
}

// openState opens what outlives the driver.
func (d *Driver) openState() (err error) {
	if d.volumes, err = volume.OpenDir(filepath.Join(d.config.StateDir, "volumes")); err != nil {
		return fmt.Errorf("open --state-dir: %w", err)
	}
	if d.releases, err = volume.OpenDir(filepath.Join(d.config.StateDir, "releases")); err != nil {
		return errors.Join(fmt.Errorf("open --state-dir: %w", err), d.volumes.Close())
	}
	for _, reason := range d.volumes.Dropped() {
		klog.InfoS("Record of a volume was dropped", "reason", reason)
	}
	for _, reason := range d.releases.Dropped() {
		klog.InfoS("Note of a lease that was to be given back was dropped", "reason", reason)
	}
	return nil
}

func (d *Driver) closeState() error {
	return errors.Join(d.closeAudit(), d.volumes.Close(), d.releases.Close())
}

// giveBack is coalesce.Options.GiveBack.
func (d *Driver) giveBack(name string, lease provider.Lease) {
	if err := d.service.GiveBack(name, lease); err != nil {
		klog.ErrorS(err, "Lease is given back, and would not be after a restart", "provider", name)
	}
}

// lost is publish.Config.Lost.
func lost(rec volume.Record, err error) {
	klog.ErrorS(err, "Lease could not be given back; its store ends it when it expires",
		"provider", rec.Provider, "pod", klog.KRef(rec.Pod.Namespace, rec.Pod.Name), "class", rec.Class, "expires", rec.Held.Lease.Expires.UTC().Format(time.RFC3339))
}

// addChecks says what makes the driver alive and ready.
func (d *Driver) addChecks() (err error) {
	d.core.Add("state folder", func(context.Context) error { return writable(d.config.StateDir) })
	d.health.Add("core", d.core.Ready)
	for _, name := range d.config.requiredProviders() {
		d.health.Add("provider "+name, func(ctx context.Context) error { return d.plugins.Check(ctx, name) })
	}
	if dir := d.config.RegistrationDir; dir != "" {
		d.kubelet, err = registration.New(registration.Config{Dir: dir, Driver: d.config.DriverName, Endpoint: d.config.registrationPath()}, nil)
		if err != nil {
			return err
		}
		d.health.Add("registration", d.kubelet.Registered)
	}
	return nil
}

// findClasses opens the folder of classes, or connects to the cluster that has
// them.
func (d *Driver) findClasses() (err error) {
	if dir := d.config.ClassDir; dir != "" {
		d.core.Add("class folder", func(context.Context) error { return listable(dir) })
		if d.classes, err = class.OpenDir(dir, nil); err != nil {
			return fmt.Errorf("open --class-dir: %w", err)
		}
		return nil
	}
	if d.cluster, err = newCluster(&d.config, d.volumes); err != nil {
		return fmt.Errorf("%w: give --kubeconfig outside of a cluster, or --class-dir to do without one", err)
	}
	d.classes = d.cluster.classes
	return nil
}

// needsFiles is publish.Config.NeedsFiles.
func (d *Driver) needsFiles() func(volume.ID, *class.Class) bool {
	if d.cluster == nil || d.cluster.secrets == nil {
		return nil
	}
	return d.cluster.secrets.NeedsFiles
}

func mounter(opts *Options) (publish.Mounter, error) {
	if opts != nil && opts.Mounts != nil {
		return opts.Mounts, nil
	}
	m, err := tmpfs.New()
	if err == nil {
		klog.InfoS("Volumes are file systems in memory", "noswap", m.NoSwap())
	}
	return m, err
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
	profiles, err := d.profiles()
	if err != nil {
		return errors.Join(err, lis.Close())
	}
	d.health.Live("CSI socket", func(ctx context.Context) error { return answers(ctx, lis.Addr()) })
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serve.GRPC(ctx, lis, d.server, grace) })
	group.Go(func() error { return serve.HTTP(ctx, d.config.MetricsAddr, d.certificates(), d.front(), grace) })
	if profiles != nil {
		group.Go(func() error { return serve.Profiles(ctx, profiles, grace) })
	}
	if d.kubelet != nil {
		group.Go(func() error { return d.kubelet.Run(ctx) })
	}
	group.Go(func() error {
		if err := d.service.Reconcile(ctx); err != nil {
			klog.ErrorS(err, "Due times of volumes could not be brought up to date")
		}
		return d.rotator.Run(ctx)
	})
	if d.cluster != nil {
		group.Go(func() error { return d.cluster.run(ctx, d.health.Ready) })
	}
	if d.config.Rotation {
		group.Go(func() error { return d.classes.Changes(ctx, d.watcher.classChanged) })
		group.Go(func() error { return d.watcher.run(ctx, d.volumes.List()) })
	}
	return group.Wait()
}

// answers reports why nobody answers at the address, which is dialled anew each
// time, as kubelet does.
func answers(ctx context.Context, addr net.Addr) error {
	conn, err := grpc.NewClient(target(addr), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	return errors.Join(node.Ping(ctx, conn), conn.Close())
}

// target is how gRPC calls an address.
func target(addr net.Addr) string {
	if addr.Network() == "unix" {
		return "unix:" + addr.String()
	}
	return "passthrough:" + addr.String()
}

// front answers what a node's operator and the pod's probes ask by HTTP.
func (d *Driver) front() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.certificates().Known(d.metrics.Handler()))
	mux.Handle("/", &d.health)
	return mux
}

// profiles listens for who wants profiles, if anybody may.
func (d *Driver) profiles() (net.Listener, error) {
	if d.config.PprofSocket == "" {
		return nil, nil
	}
	lis, err := serve.Listen("unix:"+d.config.PprofSocket, nil)
	if err != nil {
		return nil, fmt.Errorf("listen on --pprof-socket: %w", err)
	}
	return lis, nil
}

func (d *Driver) certificates() serve.Certificates { return serve.Certificates(d.config.MetricsTLS) }

// close waits for what is still under way, which is bounded.
func (d *Driver) close() {
	d.service.Close()
	if err := errors.Join(d.shared.Close(), d.plugins.Close(), d.closeState()); err != nil {
		klog.ErrorS(err, "Stop")
	}
}
