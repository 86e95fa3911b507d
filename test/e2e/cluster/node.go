package cluster

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Addresses of the node. The API server listens on its service's address
// itself, so that pods reach it without kube-proxy.
const (
	nodeName  = "node1"
	nodeIP    = "10.95.0.1"
	serviceIP = "10.96.0.1"
	podNet    = "10.244.0.0/16"
	bridge    = "cni0"
	bridgeIP  = "10.244.0.1/16"
	bridgeMAC = "02:00:0a:f4:00:01"
)

// node is the role of the first process of the namespaces: it prepares the
// file systems and the network, starts the process of the tests, and takes
// care of orphans. It returns the exit code of the tests; the kernel then ends
// all other processes.
func node() int {
	if err := settle(layoutOf(os.Getenv(runVariable))); err != nil {
		fail(err)
	}
	self, err := os.Executable()
	if err != nil {
		fail(err)
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), roleVariable+"="+roleTests)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		fail(err)
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			fail(fmt.Errorf("wait: %w", err))
		case pid != cmd.Process.Pid: // an orphan
		case status.Signaled():
			say("the tests were ended by signal %v", status.Signal())
			return 128 + int(status.Signal())
		default:
			return status.ExitStatus()
		}
	}
}

func settle(l layout) error {
	if err := unix.Sethostname([]byte(nodeName)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := fileSystems(l); err != nil {
		return err
	}
	if err := network(); err != nil {
		return fmt.Errorf("network: %w", err)
	}
	return nil
}

// covered returns the folders of the machine that the node sees through an
// overlay, which takes what is written there.
func covered() []string { return []string{"/etc", "/opt", "/usr", "/var"} }

// fileSystems gives the node folders of its own where programs write, at the
// usual paths. Nothing of it can be seen outside.
func fileSystems(l layout) error {
	m := &mounter{}
	m.mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	m.mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") // as systemd does: containers may ask for it
	m.mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	m.folder(l.state("overlay"))
	m.mount("tmpfs", l.state("overlay"), "tmpfs", 0, "mode=755")
	for _, top := range covered() {
		m.overlay(top, filepath.Join(l.state("overlay"), top))
	}
	m.mount("tmpfs", "/run", "tmpfs", 0, "mode=755")
	m.folder("/var/lib/etcd")
	m.mount("tmpfs", "/var/lib/etcd", "tmpfs", 0, "mode=700")
	for _, name := range []string{"kubelet", "containerd"} {
		m.bind(l.state(name), "/var/lib/"+name)
	}
	m.bind(l.state("logs/pods"), "/var/log/pods")
	return m.err
}

// A mounter mounts until something fails.
type mounter struct{ err error }

func (m *mounter) mount(source, target, fstype string, flags uintptr, data string) {
	if m.err != nil {
		return
	}
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		m.err = fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
}

func (m *mounter) folder(path string) {
	if m.err == nil {
		m.err = os.MkdirAll(path, 0o755)
	}
}

// bind shows a folder at another place too, as a mount that is shared with
// containers, and with nobody else: else each mount in it shows up twice.
func (m *mounter) bind(source, target string) {
	m.folder(source)
	m.folder(target)
	m.mount(source, target, "", unix.MS_BIND, "")
	m.mount("", target, "", unix.MS_PRIVATE, "")
	m.mount("", target, "", unix.MS_SHARED, "")
}

// overlay catches what is written below a folder of the machine.
func (m *mounter) overlay(folder, store string) {
	m.folder(store + "/upper")
	m.folder(store + "/work")
	m.mount("overlay", folder, "overlay", 0, fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", folder, store, store))
}

// network makes the node's addresses, and the bridge of the pods. There is no
// way out of it.
func network() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := address(lo, nodeIP+"/32", serviceIP+"/32"); err != nil {
		return err
	}
	// Without a fixed address a bridge takes one of its ports', and pods lose
	// their connections when that port goes.
	mac, err := net.ParseMAC(bridgeMAC)
	if err != nil {
		return err
	}
	br := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: bridge, HardwareAddr: mac}}
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if err := address(br, bridgeIP); err != nil {
		return err
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: br.Index, Scope: netlink.SCOPE_LINK, Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}); err != nil {
		return fmt.Errorf("route: %w", err)
	}
	return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) // of this network namespace
}

func address(link netlink.Link, addresses ...string) error {
	for _, text := range addresses {
		a, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return fmt.Errorf("address %s: %w", text, err)
		}
	}
	return netlink.LinkSetUp(link)
}
