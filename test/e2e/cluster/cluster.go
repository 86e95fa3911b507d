// Package cluster runs the tests of a package against a Kubernetes cluster of
// one node that it starts for them: real servers, a real kubelet, containerd
// and runc, built from the Go module proxy and from Debian packages. TestMain
// calls Main; tests call Current.
//
// The node is the test binary itself, run once more in namespaces of its own
// (mounts, network, processes), so that it changes nothing on the machine and
// ends as a whole, however the tests end. That makes four processes of one
// binary:
//
//	outside   what `go test` runs: builds, starts the node, cleans up (outside.go)
//	node      the first process of the namespaces: mounts and network (node.go)
//	tests     starts the servers, then runs the tests (inside.go)
//	kubelet   hides some kernel settings and becomes kubelet (kubelet.go)
//
// Where KUBECONFIG is set, that cluster is tested instead, and what only a
// node of our own can do (Stop, Reboot, EtcdDump...) is unsupported.
//
// With E2E_SHELL=1 a shell on the node takes the place of the tests.
package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// A Cluster is what the tests run against.
type Cluster struct {
	Local      bool   // started by Main: the node is at the tests' mercy
	Kubeconfig string // path; also in KUBECONFIG

	layout  layout
	servers *servers // of a local cluster
}

// current is set once, before the tests run.
var current *Cluster

// Current returns the cluster that Main has prepared.
func Current() *Cluster { return current }

// Tests is what Main runs: a *testing.M, or what is around one.
type Tests interface{ Run() (code int) }

// Main prepares a cluster, runs the tests and ends the process. Call it from
// TestMain.
func Main(m Tests) {
	role := os.Getenv(roleVariable)
	if err := os.Unsetenv(roleVariable); err != nil {
		fail(err)
	}
	switch role {
	case "":
		os.Exit(outside(m))
	case roleNode:
		os.Exit(node())
	case roleTests:
		os.Exit(inside(m))
	case roleKubelet:
		fail(becomeKubelet(os.Args[1:]))
	}
}

// The environment tells a process its role, and the run that it belongs to.
const (
	roleVariable = "KEYMOUNT_E2E_ROLE"
	runVariable  = "KEYMOUNT_E2E_RUN"

	roleNode    = "node"
	roleTests   = "tests"
	roleKubelet = "kubelet"
)

// say tells whoever watches the run what is going on.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, "e2e: "+format+"\n", args...) }

func fail(err error) {
	say("%v", err)
	os.Exit(1)
}

// Images returns the references of the images that the tests use, by their
// short names: keymount, mockprovider, busybox and upstream (the upstream
// driver, and a registrar). A local cluster has them.
func (c *Cluster) Images() map[string]string {
	references := map[string]string{}
	for _, i := range images(c.layout) {
		references[i.name] = i.Reference
	}
	return references
}

// Tool returns the path of a program such as helm, kubectl or ctr.
func (c *Cluster) Tool(name string) string {
	if path := c.layout.bin(name); exists(path) {
		return path
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return name
}

// AuditLog returns the path of the API server's audit log: one JSON object in
// a line, without any content of objects. It is "" where the cluster is not local.
func (c *Cluster) AuditLog() string {
	if !c.Local {
		return ""
	}
	return c.layout.log("audit")
}

// Log returns the path of a server's log. It is "" where the cluster is not local.
func (c *Cluster) Log(program string) string {
	if !c.Local {
		return ""
	}
	return c.layout.log(program)
}

// Stop kills one of the node's programs, without warning, and leaves it down:
// etcd, kube-apiserver, kube-controller-manager, kube-scheduler, containerd or
// kubelet. Containers live on.
func (c *Cluster) Stop(program string) error {
	if err := c.local("stop " + program); err != nil {
		return err
	}
	return c.servers.stop(program)
}

// Start starts a stopped program as it was started before, and returns when it
// answers.
func (c *Cluster) Start(program string) error {
	if err := c.local("start " + program); err != nil {
		return err
	}
	return c.servers.start(program)
}

func (c *Cluster) local(what string) error {
	if c.Local {
		return nil
	}
	return fmt.Errorf("%s: the node of another cluster cannot be controlled: %w", what, errors.ErrUnsupported)
}

// A layout is where things are. The cache outlives a run, and several runs may
// share it.
type layout struct {
	cache string
	run   string // state of this run; on the machine's disk, removed in the end
}

func layoutOf(run string) layout { return layout{filepath.Dir(filepath.Dir(run)), run} }

func (l layout) bin(name string) string     { return filepath.Join(l.cache, "bin", name) }
func (l layout) archive(name string) string { return filepath.Join(l.cache, "images", name+".tar") }
func (l layout) runs() string               { return filepath.Join(l.cache, "run") }

func (l layout) state(name string) string { return filepath.Join(l.run, name) }
func (l layout) pki(name string) string   { return filepath.Join(l.run, "pki", name) }
func (l layout) log(name string) string   { return filepath.Join(l.run, "logs", name+".log") }

// cgroup returns the name of the folder that holds all containers.
func (l layout) cgroup() string { return "keymount-e2e-" + filepath.Base(l.run) }

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
