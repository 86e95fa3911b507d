// Package traffic makes metrics that mean something: it runs real drivers, one
// for each of several nodes, with providers behind sockets, and calls them as
// kubelet does while stores fail, secrets change and pods come and go. What
// the drivers expose is read from them as Prometheus reads it.
package traffic

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// patience bounds the start of a driver and any call of it.
const patience = 30 * time.Second

// A Config says what is run.
type Config struct {
	Repository string   // folder of the product
	Nodes      []string // names
	Build      []string // more arguments of go build
	Log        *os.File // of what drivers log; nil: nobody reads it
}

// A Cluster is drivers of several nodes that run, each as a process, and the
// providers that they share. Its process must be one that may mount.
type Cluster struct {
	Nodes []*Node

	config  Config
	dir     string
	stores  stores
	audit   listener
	cleanup []func() error
}

// A Node is one driver.
type Node struct {
	Name    string
	Address string // of its /metrics

	dir    string
	driver csi.NodeClient
}

// Start starts everything and waits until the drivers answer.
func Start(ctx context.Context, config Config) (*Cluster, error) {
	dir, err := os.MkdirTemp("", "km") // the path of a socket must be short
	if err != nil {
		return nil, err
	}
	c := &Cluster{config: config, dir: dir}
	c.cleanup = append(c.cleanup, func() error { return os.Remove(dir) })
	if err := c.start(ctx); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Cluster) start(ctx context.Context) error {
	// What lies in memory, as /run does on a node, goes in one piece, with all
	// volumes that are mounted below.
	if err := unix.Mount("tmpfs", c.dir, "tmpfs", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount %s: %w", c.dir, err)
	}
	c.cleanup = append(c.cleanup, func() error { return unix.Unmount(c.dir, unix.MNT_DETACH) })
	build := exec.CommandContext(ctx, "go", append(append([]string{"build", "-buildvcs=false", "-o", c.path("keymount-driver")}, c.config.Build...), "./cmd/keymount-driver")...)
	build.Dir = c.config.Repository
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the driver: %w\n%s", err, out)
	}
	c.audit.path = c.path("audit.sock")
	c.cleanup = append(c.cleanup, c.audit.leave)
	if err := errors.Join(c.writeClasses(), c.serveStores(ctx), c.audit.listen()); err != nil {
		return err
	}
	for _, name := range c.config.Nodes {
		if err := c.startNode(ctx, name); err != nil {
			return fmt.Errorf("start the driver of %s: %w", name, err)
		}
	}
	return nil
}

// Close stops the drivers and removes what they left.
func (c *Cluster) Close() error {
	var errs []error
	for len(c.cleanup) > 0 {
		last := len(c.cleanup) - 1
		errs = append(errs, c.cleanup[last]())
		c.cleanup = c.cleanup[:last]
	}
	return errors.Join(errs...)
}

func (c *Cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.dir}, elements...)...)
}

// startNode starts a driver. All of them share the providers and the classes.
func (c *Cluster) startNode(ctx context.Context, name string) error {
	address, err := freeAddress()
	if err != nil {
		return err
	}
	n := &Node{Name: name, Address: address, dir: c.path(name)}
	socket := filepath.Join(n.dir, "csi.sock")
	if err := os.MkdirAll(n.dir, 0o700); err != nil {
		return err
	}
	process := exec.Command(c.path("keymount-driver"),
		"--nodeid="+name, "--kubelet-root=", "--endpoint=unix://"+socket, "--metrics-addr="+address, "--state-dir="+filepath.Join(n.dir, "state"),
		"--class-dir="+c.path("classes"), "--provider-volume="+c.path("providers"), "--additional-provider-volume-paths=",
		"--audit-log=unix://"+c.audit.path, "--audit-required=false")
	if c.config.Log != nil {
		process.Stderr = c.config.Log
	}
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := process.Start(); err != nil {
		return err
	}
	c.cleanup = append(c.cleanup, func() error { return errors.Join(process.Process.Signal(syscall.SIGTERM), process.Wait()) })
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	c.cleanup = append(c.cleanup, conn.Close)
	n.driver = csi.NewNodeClient(conn)
	c.Nodes = append(c.Nodes, n)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = n.driver.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{}, grpc.WaitForReady(true))
	return err
}

// freeAddress returns an address on which nobody listens.
func freeAddress() (string, error) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return lis.Addr().String(), lis.Close()
}

// Scrape returns what the driver exposes now.
func (n *Node) Scrape(ctx context.Context) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+n.Address+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("scrape %s: %w", n.Name, err)
	}
	text, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK {
		err = errors.Join(err, errors.New(resp.Status))
	}
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("scrape %s: %w", n.Name, err)
	}
	return text, nil
}
