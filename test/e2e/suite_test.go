package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/keymount/keymount/pkg/trace/tracetest"
	"github.com/keymount/keymount/test/e2e/cluster"
)

const (
	driverName      = "secrets-store.csi.k8s.io"
	system          = "keymount-system" // where the chart is installed
	mockNamespace   = "mock"
	providersDir    = "/var/run/secrets-store-csi-providers"
	storeDir        = "/var/lib/keymount-e2e/store" // of the file provider, on the node
	chart           = "../../deploy/helm/keymount"
	patience        = 2 * time.Minute // for what takes seconds on a free machine
	defaultInterval = 30 * time.Second
)

// A suite is the cluster with the chart in it.
type suite struct {
	*cluster.Cluster
	api kubernetes.Interface

	canaries atomic.Int64         // secrets that tests have stored
	learnt   []string             // secrets that a store has made
	traces   *tracetest.Collector // nil if drivers do not reach this process
}

func newSuite(t testing.TB) *suite {
	t.Helper()
	s := &suite{Cluster: cluster.Current()}
	config, err := clientcmd.BuildConfigFromFlags("", s.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = 200, 400
	if s.api, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	return s
}

// values are those of the chart that the tests differ in.
var values = []string{
	"logVerbosity=10", "rotation.interval=" + defaultInterval.String(),
	"thirdPartyProviders.folders={" + providersDir + "}",
	"csiDriver.tokenRequests[0].audience=aud1", "csiDriver.tokenRequests[1].audience=aud2",
	"audit.folder=" + auditDir,
	"providers.file.volume.hostPath.path=" + storeDir, "providers.file.volume.hostPath.type=DirectoryOrCreate",
}

// install installs the chart, or changes what is installed, and waits until
// kubelet knows the driver.
func (s *suite) install(t testing.TB, more ...string) {
	t.Helper()
	s.keepLogs(t)
	args := []string{"upgrade", "--install", "keymount", chart, "--namespace", system, "--create-namespace", "--wait", "--timeout", "3m"}
	s.helm(t, append(args, settings(more...)...)...)
	s.awaitDriver(t)
}

// image returns arguments of helm that make it use the image of the node.
func image() []string {
	return []string{"--set-string", "image.tag=1", "--set", "image.registry=e2e.test,image.repository=keymount,image.pullPolicy=Never"}
}

// settings returns the values of the tests, and more, as arguments of helm.
func settings(more ...string) []string {
	args := image()
	for _, v := range append(slices.Clone(values), more...) {
		args = append(args, "--set", v)
	}
	return args
}

func (s *suite) helm(t testing.TB, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), s.Tool("helm"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.Kubeconfig, "HELM_CACHE_HOME="+t.TempDir(), "HELM_CONFIG_HOME="+t.TempDir(), "HELM_DATA_HOME="+t.TempDir())
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("helm %s: %v\n%s%s", strings.Join(args, " "), err, out, s.describe(system))
	}
}

// awaitDriver waits until kubelet has registered the driver.
func (s *suite) awaitDriver(t testing.TB) {
	t.Helper()
	s.eventually(t, "the driver is registered", func(ctx context.Context) error {
		nodes, err := s.api.StorageV1().CSINodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range nodes.Items {
			for _, d := range n.Spec.Drivers {
				if d.Name == driverName {
					return nil
				}
			}
		}
		return errors.New("no CSINode lists it")
	})
}

// eventually waits until check returns nil.
func (s *suite) eventually(t testing.TB, what string, check func(context.Context) error) {
	t.Helper()
	s.within(t, patience, what, check)
}

// within waits until check returns nil, for at most d, and returns how long
// that took. Each check has half a minute.
func (s *suite) within(t testing.TB, d time.Duration, what string, check func(context.Context) error) time.Duration {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for began := time.Now(); ; <-tick.C {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		err := check(ctx)
		cancel()
		switch took := time.Since(began); {
		case took > d:
			t.Fatalf("%s: after %v, not within %v: %v", what, took, d, err)
		case err == nil:
			return took
		}
	}
}

// kubectl runs kubectl and returns what it prints.
func (s *suite) kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, s.Tool("kubectl"), append([]string{"--kubeconfig", s.Kubeconfig}, args...)...)
	cmd.Stdin = strings.NewReader(stdin)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.String(), nil
}

// apply applies manifests, which must be without a mistake.
func (s *suite) apply(t testing.TB, namespace string, manifests ...string) {
	t.Helper()
	if _, err := s.kubectl(t.Context(), strings.Join(manifests, "\n---\n"), "apply", "--server-side", "--force-conflicts", "--validate=strict", "-n", namespace, "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// namespace makes a namespace that goes with the test.
func (s *suite) namespace(t testing.TB) string {
	t.Helper()
	name := "t-" + strings.ToLower(rand.Text()[:8])
	s.makeNamespace(t, name)
	return name
}

// makeNamespace makes a namespace of that name that goes with the test. What
// there is in it then must have no secret.
func (s *suite) makeNamespace(t testing.TB, name string) {
	t.Helper()
	if _, err := s.api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "the default service account", func(ctx context.Context) error {
		_, err := s.api.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.describe(name))
		}
		s.searchNamespace(t, name)
		_ = s.api.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{})
	})
}

// describe returns the events and pods of a namespace, for who reads a failure.
func (s *suite) describe(namespace string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	events, _ := s.kubectl(ctx, "", "get", "events", "-n", namespace, "-o", "custom-columns=T:.lastTimestamp,OBJ:.involvedObject.name,R:.reason,M:.message")
	pods, _ := s.kubectl(ctx, "", "get", "pods", "-n", namespace, "-o", "wide")
	return "\n" + pods + events
}

// canary returns a new secret, which nothing but a pod may ever show.
func (s *suite) canary() string {
	s.canaries.Add(1)
	return mark + rand.Text()
}

// event waits for an event on a pod whose message has a match of the pattern.
func (s *suite) event(t *testing.T, namespace, pod, reason, pattern string) {
	t.Helper()
	text := regexp.MustCompile(pattern)
	s.eventually(t, "event "+reason+" of pod "+pod, func(ctx context.Context) error {
		events, err := s.api.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=" + pod})
		if err != nil {
			return err
		}
		var messages []string
		for _, e := range events.Items {
			if e.Reason == reason && text.MatchString(e.Message) {
				return nil
			}
			messages = append(messages, e.Reason+": "+e.Message)
		}
		return fmt.Errorf("no event is like %q, of:\n%s", text, strings.Join(messages, "\n"))
	})
}

// noMountIsLeft waits until kubelet has nothing of our driver mounted.
func (s *suite) noMountIsLeft(t *testing.T) {
	t.Helper()
	s.eventually(t, "no mount is left", func(context.Context) error {
		mounts, err := s.Mounts()
		if errors.Is(err, errors.ErrUnsupported) {
			return nil // pods that end prove it there
		}
		left := slices.DeleteFunc(mounts, func(m string) bool { return !strings.Contains(m, "kubernetes.io~csi") })
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("mounts: %v", left)
		}
		return err
	})
}

// driverPods returns the pods of the DaemonSet.
func (s *suite) driverPods(ctx context.Context) ([]corev1.Pod, error) {
	pods, err := s.api.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=keymount"})
	if err != nil {
		return nil, err
	}
	return pods.Items, nil
}

// put stores a file for the file provider.
func (s *suite) put(t *testing.T, namespace, name, content string) {
	t.Helper()
	path := filepath.Join(storeDir, namespace, name)
	fresh := filepath.Join(storeDir, "fresh")
	err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(fresh, []byte(content), 0o644), os.Rename(fresh, path))
	if err != nil {
		t.Fatal(err)
	}
}
