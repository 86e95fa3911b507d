package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
)

// kubeletRoot is kubelet's folder.
const kubeletRoot = "/var/lib/kubelet"

// Reboot does to the node what a power cycle does, except to the servers of
// the control plane, which live on: kubelet, containerd and all containers are
// killed, what was in memory (tmpfs, /run) is gone, what was on disk stays.
// It returns when containerd and kubelet answer again; pods take longer.
func (c *Cluster) Reboot(ctx context.Context) error {
	if err := c.local("reboot"); err != nil {
		return err
	}
	for _, program := range []string{"kubelet", "containerd"} {
		if err := c.servers.stop(program); err != nil && !errors.Is(err, errDown) {
			return err
		}
	}
	if err := c.killContainers(ctx); err != nil {
		return err
	}
	if err := forget(); err != nil {
		return err
	}
	for _, program := range []string{"containerd", "kubelet"} {
		if err := c.servers.start(program); err != nil {
			return err
		}
	}
	return nil
}

// killContainers kills the processes of all containers, and those that watch
// over them, until none is left.
func (c *Cluster) killContainers(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		watchers, err := shims()
		if err != nil {
			return err
		}
		inside, err := contained(c.layout)
		if err != nil {
			return err
		}
		all := append(watchers, inside...)
		if len(all) == 0 {
			return nil
		}
		for _, pid := range all {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("kill %d: %w", pid, err)
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("processes %v do not end: %w", all, ctx.Err())
		}
	}
}

// shims returns the processes by which containerd runs containers.
func shims() (pids []int, err error) {
	processes, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return nil, err
	}
	for _, path := range processes {
		name, err := os.ReadFile(path)
		if err != nil || !strings.HasPrefix(string(name), "containerd-shim") {
			continue // or it ended just now
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// forget unmounts all that kubelet and containerd have mounted, and empties /run.
func forget() error {
	for _, top := range []string{kubeletRoot, "/run"} {
		points, err := mountsBelow(top)
		if err != nil {
			return err
		}
		for _, point := range slices.Backward(points) {
			if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", point, err)
			}
		}
	}
	entries, err := os.ReadDir("/run")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join("/run", e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Mounts returns the mount points below kubelet's folder, in the order in
// which they were mounted.
func (c *Cluster) Mounts() ([]string, error) {
	if err := c.local("mounts"); err != nil {
		return nil, err
	}
	return mountsBelow(kubeletRoot)
}

func mountsBelow(top string) (points []string, err error) {
	all, err := mount.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for _, m := range all {
		if strings.HasPrefix(m.MountPoint, top+"/") {
			points = append(points, m.MountPoint)
		}
	}
	return points, nil
}
