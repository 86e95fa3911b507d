package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keymount/keymount/pkg/driver"
	"github.com/keymount/keymount/test/perf/floor"
)

// A row is one operation with one number of files.
type row struct {
	operation   string
	files       int
	took, floor samples
}

type samples []time.Duration

func (s samples) quantile(q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[int(q*float64(len(sorted)-1))]
}

// The operations in the order in which they are measured and printed.
const (
	opPublish = iota
	opRepublish
	opRotate
	opUnpublish
	operations
)

var operationNames = [operations]string{"publish", "republish, unchanged", "rotation with change", "unpublish"}

// warmup rounds are not counted.
const warmup = 20

// measure times every operation and its floor in turn, so that whatever else
// the machine does meets both alike.
func (b *bench) measure(ctx context.Context, files, rounds int) ([]row, error) {
	rows := make([]row, operations)
	for op := range rows {
		rows[op] = row{operation: operationNames[op], files: files}
	}
	for round := range rounds + warmup {
		took, err := b.once(ctx, files)
		if err != nil {
			return nil, err
		}
		least, err := b.floorOnce(ctx, files)
		if err != nil {
			return nil, err
		}
		if round < warmup {
			continue
		}
		for op := range rows {
			rows[op].took = append(rows[op].took, took[op])
			rows[op].floor = append(rows[op].floor, least[op])
		}
	}
	return rows, nil
}

// once takes one volume through its life.
func (b *bench) once(ctx context.Context, files int) (took [operations]time.Duration, err error) {
	b.serial++
	req := request(b.path("pods", fmt.Sprint(b.serial)), fmt.Sprint(b.serial), files)
	if err := os.MkdirAll(b.path("pods"), 0o750); err != nil {
		return took, err
	}
	publish := func() error { _, err := b.node.NodePublishVolume(ctx, req); return err }
	unpublish := func() error {
		_, err := b.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: req.VolumeId, TargetPath: req.TargetPath})
		return err
	}
	for op, do := range [operations]func() (time.Duration, error){
		opPublish:   func() (time.Duration, error) { return timed(publish) },
		opRepublish: func() (time.Duration, error) { return timed(publish) },
		opRotate:    func() (time.Duration, error) { return b.rotate(ctx, req.TargetPath) },
		opUnpublish: func() (time.Duration, error) { return timed(unpublish) },
	} {
		if err := wake(ctx, b.driver); err != nil {
			return took, err
		}
		if took[op], err = do(); err != nil {
			return took, fmt.Errorf("%s: %w", operationNames[op], err)
		}
	}
	return took, nil
}

// wake makes a call that is not timed: a process that slept answers its first
// call late, and the driver shall not look better or worse for that.
func wake(ctx context.Context, c csi.IdentityClient) error {
	_, err := c.GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	return err
}

// rotate changes the secret in the store, and times until the volume shows it.
func (b *bench) rotate(ctx context.Context, target string) (time.Duration, error) {
	for !b.store.watched() {
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if _, err := unix.InotifyAddWatch(fd, target, unix.IN_MOVED_TO); err != nil {
		return 0, err
	}
	return timed(func() error {
		b.store.turn()
		_, err := unix.Read(fd, make([]byte, 4096)) // the swap of ..data
		return err
	})
}

// floorOnce does the same with bare system calls and an empty gRPC call, to a
// process that is woken before each as the driver is.
func (b *bench) floorOnce(ctx context.Context, files int) (took [operations]time.Duration, err error) {
	target := b.path("floor")
	for op, do := range [operations]func() error{
		opPublish:   func() error { return floor.Publish(target, files) },
		opRepublish: func() error { return nil },
		opRotate:    func() error { return floor.Rotate(target, files) },
		opUnpublish: func() error { return floor.Unpublish(target) },
	} {
		if err := wake(ctx, b.bare); err != nil {
			return took, err
		}
		if took[op], err = timed(func() error { return errors.Join(wake(ctx, b.bare), do()) }); err != nil {
			return took, fmt.Errorf("floor of %s: %w", operationNames[op], err)
		}
	}
	return took, nil
}

func timed(do func() error) (time.Duration, error) {
	began := time.Now()
	err := do()
	return time.Since(began), err
}

// request is what kubelet sends for a pod that has its own service account, so
// that no fetch is shared.
func request(target, id string, files int) *csi.NodePublishVolumeRequest {
	return &csi.NodePublishVolumeRequest{
		VolumeId: "csi-" + id, TargetPath: target, Readonly: true,
		VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
		VolumeContext: map[string]string{
			"secretProviderClass": className(files), "csi.storage.k8s.io/ephemeral": "true",
			"csi.storage.k8s.io/pod.namespace": "ns", "csi.storage.k8s.io/pod.name": "pod-" + id,
			"csi.storage.k8s.io/pod.uid": "uid-" + id, "csi.storage.k8s.io/serviceAccount.name": "sa-" + id,
		},
	}
}

// A crowd is many volumes that are published at the same time.
type crowd struct{ first, last samples }

// publishMany publishes volumes until there are many, and removes them.
func (b *bench) publishMany(ctx context.Context, volumes int) (crowd, error) {
	tenth := max(volumes/10, 1)
	var all samples
	for i := range volumes {
		req := request(b.path("pods", fmt.Sprint("many-", i)), fmt.Sprint("many-", i), 5)
		took, err := timed(func() error { _, err := b.node.NodePublishVolume(ctx, req); return err })
		if err != nil {
			return crowd{}, err
		}
		all = append(all, took)
	}
	for i := range volumes {
		_, err := b.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{
			VolumeId: fmt.Sprint("csi-many-", i), TargetPath: b.path("pods", fmt.Sprint("many-", i)),
		})
		if err != nil {
			return crowd{}, err
		}
	}
	return crowd{all[:tenth], all[len(all)-tenth:]}, nil
}

// heapPerVolume runs a driver in this process and counts the heap that stays
// allocated for each volume of five files.
func heapPerVolume(ctx context.Context, dir string, volumes int) (perVolume int64, err error) {
	socket := filepath.Join(dir, "heap.sock")
	b := &bench{dir: dir}
	config := driver.Defaults()
	config.KubeletRoot = ""
	config.NodeID, config.Endpoint, config.MetricsAddr = "perf", "unix://"+socket, ""
	config.ClassDir, config.StateDir = b.path("classes"), b.path("heap-state")
	config.ProviderDir, config.MoreProviders = b.path("providers"), ""
	d, err := driver.New(config, nil)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- d.Run(ctx) }()
	defer func() { cancel(); err = errors.Join(err, <-served) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	node := csi.NewNodeClient(conn)
	publish := func(from, to int) error {
		for i := from; i < to; i++ {
			id := fmt.Sprint("heap-", i)
			if _, err := node.NodePublishVolume(ctx, request(b.path("pods", id), id, 5), grpc.WaitForReady(true)); err != nil {
				return err
			}
		}
		time.Sleep(2 * time.Second) // until results that were kept for sharing are gone
		return nil
	}
	if err := publish(0, 10); err != nil { // connections and caches
		return 0, err
	}
	before := liveHeap()
	if err := publish(10, 10+volumes); err != nil {
		return 0, err
	}
	perVolume = (liveHeap() - before) / int64(volumes)
	for i := range 10 + volumes {
		id := fmt.Sprint("heap-", i)
		if _, err := node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: "csi-" + id, TargetPath: b.path("pods", id)}); err != nil {
			return 0, err
		}
	}
	return perVolume, nil
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
