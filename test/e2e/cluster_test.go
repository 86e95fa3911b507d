package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keymount/keymount/test/e2e/cluster"
)

// TestCluster proves that the cluster is what the other tests take it for.
func TestCluster(t *testing.T) {
	s := newSuite(t)
	ns := s.namespace(t)
	s.start(t, ns, podSpec{name: "probe"})
	s.answers(t, ns)
	if !s.Local {
		return // there is no more to be seen of it
	}
	for _, test := range []struct {
		name string
		run  func(*testing.T, *suite, string)
	}{
		{"a pod outlives the servers, and answers when they are back", podOutlivesServers},
		{"a reboot ends a container and empties memory, and kubelet starts it again", rebootEndsContainers},
		{"the audit log says who asked for what, without content", auditWithoutContent},
		{"etcd shows what was just stored", etcdShowsAll},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, s, ns) })
	}
}

// answers waits until the probe runs a command.
func (s *suite) answers(t *testing.T, ns string) {
	t.Helper()
	s.eventually(t, "the pod runs a command", func(ctx context.Context) error {
		out, err := s.kubectl(ctx, "", "exec", "-n", ns, "probe", "--", "echo", "hello")
		if err == nil && out != "hello\n" {
			err = fmt.Errorf("it says %q", out)
		}
		return err
	})
}

// starts returns how often the container of the probe was started before, and
// which it is.
func (s *suite) starts(ctx context.Context, ns string) (restarts int32, id string, err error) {
	pod, err := s.api.CoreV1().Pods(ns).Get(ctx, "probe", metav1.GetOptions{})
	if err != nil || len(pod.Status.ContainerStatuses) == 0 {
		return 0, "", fmt.Errorf("no status: %w", err)
	}
	return pod.Status.ContainerStatuses[0].RestartCount, pod.Status.ContainerStatuses[0].ContainerID, nil
}

func podOutlivesServers(t *testing.T, s *suite, ns string) {
	_, before, err := s.starts(t.Context(), ns)
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"kubelet", "kube-apiserver", "containerd", "etcd", "kube-scheduler", "kube-controller-manager"} {
		if err := s.Stop(program); err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(program); err == nil {
			t.Errorf("%s was stopped twice", program)
		}
		if slices.Contains([]string{"kubelet", "kube-apiserver", "containerd"}, program) {
			if _, err := s.kubectl(t.Context(), "", "exec", "-n", ns, "probe", "--", "true"); err == nil {
				t.Errorf("the pod answers without %s", program)
			}
		}
		if err := s.Start(program); err != nil {
			t.Fatal(err)
		}
		s.answers(t, ns)
	}
	_, after, err := s.starts(t.Context(), ns)
	if err != nil || after != before {
		t.Errorf("the container was %s and is %s, %v", before, after, err)
	}
}

func rebootEndsContainers(t *testing.T, s *suite, ns string) {
	const inMemory, onDisk = "/run/keymount-test/file", "/var/lib/kubelet/keymount-test"
	for _, path := range []string{inMemory, onDisk} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if mounts, err := s.Mounts(); err != nil || len(mounts) == 0 {
		t.Fatalf("mounts below kubelet's folder: %v, %v, want the token of the pod", mounts, err)
	}
	if err := s.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "the container was started again", func(ctx context.Context) error {
		if restarts, _, err := s.starts(ctx, ns); err != nil || restarts == 0 {
			return fmt.Errorf("%d restarts, %w", restarts, err)
		}
		return nil
	})
	s.answers(t, ns)
	if _, err := os.Stat(inMemory); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file in /run has survived: %v", err)
	}
	if err := os.Remove(onDisk); err != nil {
		t.Errorf("a file on disk has not survived: %v", err)
	}
}

func auditWithoutContent(t *testing.T, s *suite, ns string) {
	content := s.canary()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "audited"}, StringData: map[string]string{"a": content}}
	if _, err := s.api.CoreV1().Secrets(ns).Create(t.Context(), secret, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(s.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(log, []byte(`"requestURI":"/api/v1/namespaces/`+ns+`/secrets"`)) {
		t.Error("the audit log lacks a request that was answered")
	}
	if bytes.Contains(log, []byte(content)) {
		t.Error("the audit log has the content of a Secret")
	}
}

func etcdShowsAll(t *testing.T, s *suite, ns string) {
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "dumped"}, Data: map[string]string{"a": "what is looked for"}}
	if _, err := s.api.CoreV1().ConfigMaps(ns).Create(t.Context(), config, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	keys, found := 0, false
	err := s.EtcdDump(t.Context(), func(key string, value []byte) error {
		keys++
		found = found || key == "/registry/configmaps/"+ns+"/dumped" && bytes.Contains(value, []byte("what is looked for"))
		return nil
	})
	if err != nil || !found || keys < 200 {
		t.Errorf("etcd has %d keys, the new one: %t, %v; want more than one page of answers", keys, found, err)
	}
}

// TestForeignClusterIsNotControlled needs no cluster.
func TestForeignClusterIsNotControlled(t *testing.T) {
	other := &cluster.Cluster{}
	_, mounting := other.Mounts()
	for what, err := range map[string]error{
		"Stop": other.Stop("kubelet"), "Start": other.Start("kubelet"), "Reboot": other.Reboot(t.Context()),
		"EtcdDump": other.EtcdDump(t.Context(), nil), "Mounts": mounting,
	} {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v, want %v", what, err, errors.ErrUnsupported)
		}
	}
}
