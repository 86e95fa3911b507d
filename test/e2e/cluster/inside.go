package cluster

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"text/template"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// inside is the role of the process that runs the tests on the node. It
// returns their exit code.
func inside(m Tests) int {
	l := layoutOf(os.Getenv(runVariable))
	c := &Cluster{
		Local: true, Kubeconfig: l.pki("admin.kubeconfig"), layout: l,
		servers: &servers{layout: l, programs: programs(l), running: map[string]*process{}},
	}
	for name, value := range map[string]string{
		"KUBECONFIG":      c.Kubeconfig,
		"PATH":            filepath.Clean(l.bin("")) + ":" + os.Getenv("PATH"),
		"HELM_CACHE_HOME": l.state("helm"), "HELM_CONFIG_HOME": l.state("helm"), "HELM_DATA_HOME": l.state("helm"),
	} {
		if err := os.Setenv(name, value); err != nil {
			fail(err)
		}
	}
	if err := step("start the node", c.up); err != nil {
		fail(err)
	}
	if os.Getenv("E2E_SHELL") != "" {
		return shell()
	}
	current = c
	return m.Run()
}

// shell lets a person look around on the node.
func shell() int {
	terminal, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		fail(err)
	}
	cmd := exec.Command("bash")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	if err := cmd.Run(); err != nil {
		return 1
	}
	return 0
}

//go:embed files
var files embed.FS

// configure writes the files that the servers read.
func (c *Cluster) configure() error {
	for _, folder := range []string{c.layout.state("cni"), c.layout.state("logs")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
	}
	templates, err := template.ParseFS(files, "files/*")
	if err != nil {
		return err
	}
	values := map[string]string{
		"Run": c.layout.run, "PKI": filepath.Clean(c.layout.pki("")), "Cgroup": c.layout.cgroup(), "Pause": pause,
		"Node": nodeName, "NodeIP": nodeIP, "PodNet": podNet, "Bridge": bridge,
	}
	for from, to := range map[string]string{
		"kubelet.yaml": "kubelet.yaml", "containerd.toml": "containerd.toml", "audit.yaml": "audit.yaml", "cni.conflist": "cni/10-e2e.conflist",
	} {
		f, err := os.Create(c.layout.state(to))
		if err != nil {
			return err
		}
		if err := errors.Join(templates.ExecuteTemplate(f, from, values), f.Close()); err != nil {
			return err
		}
	}
	return os.WriteFile(c.layout.state("resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644)
}

// up starts the servers, and returns when pods can be made.
func (c *Cluster) up() error {
	if err := errors.Join(c.configure(), newPKI(c.layout)); err != nil {
		return err
	}
	var first errgroup.Group
	first.Go(func() error {
		if err := c.servers.start("etcd"); err != nil {
			return err
		}
		return c.servers.start("kube-apiserver")
	})
	first.Go(func() error {
		if err := c.servers.start("containerd"); err != nil {
			return err
		}
		return c.importImages()
	})
	if err := first.Wait(); err != nil {
		return err
	}
	var then errgroup.Group
	for _, name := range []string{"kube-controller-manager", "kube-scheduler", "kubelet"} {
		then.Go(func() error { return c.servers.start(name) })
	}
	if err := then.Wait(); err != nil {
		return err
	}
	return c.await(patience)
}

func (c *Cluster) importImages() error {
	for _, i := range images(c.layout) {
		if err := run(exec.Command("ctr", "--namespace=k8s.io", "images", "import", c.layout.archive(i.name))); err != nil {
			return err
		}
	}
	return nil
}

// await waits until the node is ready, and has what each pod needs.
func (c *Cluster) await(limit time.Duration) error {
	config, err := clientcmd.BuildConfigFromFlags("", c.Kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	return patiently(limit, func() error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		node, err := client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		if !slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		}) {
			return fmt.Errorf("the node is not ready: %+v", node.Status.Conditions)
		}
		_, err = client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}
