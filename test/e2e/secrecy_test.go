package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
)

var secrecy = []scenario{
	{"no secret of any scenario is in a log or the audit log, nor was it in an event or etcd", false, noSecretIsFound},
	{"calls are traced, and no trace has a secret", true, callsAreTraced},
	{"what drivers have written down is whole, and has all that was given out", true, auditIsWhole},
}

const (
	// mark is the beginning of every secret that the scenarios store.
	mark = "canary-of-the-tests-"
	// token is that of every token of a service account.
	token = "eyJhbGciOi"
)

// forms returns a secret as it could show: in plain, in hexadecimal and in
// base64, in which it can stand in three ways in a longer text.
func forms(secret string) [][]byte {
	all := [][]byte{[]byte(secret), []byte(hex.EncodeToString([]byte(secret)))}
	for skip := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", skip) + secret))
		all = append(all, []byte(encoded[4:len(encoded)-4]))
	}
	return all
}

// leaks reports whether a text has a secret.
func (s *suite) leaks(text []byte, more ...[]byte) bool {
	for _, secret := range append([]string{mark}, s.learnt...) {
		more = append(more, forms(secret)...)
	}
	return slices.ContainsFunc(more, func(form []byte) bool { return bytes.Contains(text, form) })
}

// noSecretIsFound searches what lasts. What goes with its namespace was
// searched before that went.
func noSecretIsFound(t *testing.T, s *suite) {
	if s.canaries.Load() == 0 {
		t.Error("no secret was stored")
	}
	for _, secret := range append(s.learnt, s.canary()) {
		for skip := range 4 {
			text := []byte(strings.Repeat("s", skip) + secret)
			for _, form := range []string{string(text), hex.EncodeToString(text), base64.StdEncoding.EncodeToString(text)} {
				if !s.leaks([]byte(form)) {
					t.Errorf("%s would not be found", form)
				}
			}
		}
	}
	s.searchPods(t)
	if s.Local {
		s.searchLogs(t)
		s.searchEtcd(t.Context(), t, "/")
	}
}

// searchPods searches what the driver's pods have logged since they started.
func (s *suite) searchPods(t *testing.T) {
	t.Helper()
	pods, err := s.driverPods(t.Context())
	if err != nil || len(pods) == 0 {
		t.Fatal(len(pods), err)
	}
	for _, p := range pods {
		for _, c := range p.Spec.Containers {
			log, err := s.api.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: c.Name}).DoRaw(t.Context())
			if err != nil || len(log) == 0 {
				t.Errorf("log of %s: %d bytes, %v", c.Name, len(log), err)
			}
			if s.leaks(log, []byte(token)) {
				t.Errorf("the log of %s has a secret", c.Name)
			}
		}
	}
}

// searchNamespace searches the events and all other objects of a namespace,
// but for its Secrets.
func (s *suite) searchNamespace(t testing.TB, name string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if s.Local {
		s.searchEtcd(ctx, t, "/"+name+"/")
		return
	}
	objects, err := s.kubectl(ctx, "", "get", "events,pods,secretproviderclasspodstatuses", "-n", name, "-o", "json")
	if err != nil || s.leaks([]byte(objects)) {
		t.Errorf("the objects of namespace %s have a secret, or cannot be read: %v", name, err)
	}
}

// searchEtcd searches the keys that have the text, but for Secrets.
func (s *suite) searchEtcd(ctx context.Context, t testing.TB, part string) {
	t.Helper()
	keys := 0
	err := s.EtcdDump(ctx, func(key string, value []byte) error {
		if !strings.HasPrefix(key, "/registry/secrets/") && strings.Contains(key, part) {
			keys++
			if s.leaks(value) {
				t.Errorf("etcd has a secret at %s", key)
			}
		}
		return nil
	})
	if err != nil || keys == 0 {
		t.Error(fmt.Errorf("etcd: %d keys, %w", keys, err))
	}
}

// searchLogs searches what all drivers have logged, and the servers.
func (s *suite) searchLogs(t *testing.T) {
	t.Helper()
	s.keepLogs(t)
	containers, err := filepath.Glob(filepath.Join(s.keptLogs(), "*"))
	if err != nil || len(containers) < 2 {
		t.Errorf("there are %d logs of drivers and providers, %v", len(containers), err)
	}
	for _, path := range append(containers, s.AuditLog(), s.Log("kubelet"), s.Log("containerd"), s.Log("kube-apiserver")) {
		text, err := os.ReadFile(path)
		if err != nil || len(text) == 0 {
			t.Errorf("%s: %d bytes, %v", path, len(text), err)
		}
		if s.leaks(text, []byte(token)) {
			t.Errorf("%s has a secret", path)
		}
	}
	t.Logf("searched %d logs of containers for %d secrets", len(containers), s.canaries.Load())
}

// keptLogs is the folder of the logs of all containers of the driver that were.
func (s *suite) keptLogs() string { return filepath.Join(filepath.Dir(s.Log("kubelet")), "kept") }

// keepLogs gives the logs of the driver's containers a second name, for kubelet
// removes them with their pod. It is called before the driver is replaced.
func (s *suite) keepLogs(t testing.TB) {
	t.Helper()
	if !s.Local {
		return
	}
	if err := os.MkdirAll(s.keptLogs(), 0o755); err != nil {
		t.Fatal(err)
	}
	var logs []string
	for _, container := range []string{"driver", "providers"} {
		found, err := filepath.Glob(filepath.Join(filepath.Dir(s.keptLogs()), "pods", "*_keymount-*", container, "*.log"))
		if err != nil {
			t.Fatal(err)
		}
		logs = append(logs, found...)
	}
	for _, path := range logs {
		info, err := os.Stat(path)
		if err == nil {
			is, _ := info.Sys().(*syscall.Stat_t)
			err = os.Link(path, filepath.Join(s.keptLogs(), fmt.Sprintf("%s-%d", filepath.Base(filepath.Dir(path)), is.Ino)))
		}
		if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

// callsAreTraced looks at what drivers have sent, in this scenario and all before.
func callsAreTraced(t *testing.T, s *suite) {
	ns := s.namespace(t)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": s.canary()}})
	s.apply(t, ns, class("c", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	const want = "csi.v1.Node/NodePublishVolume\n  publish\n    fetch\n      v1alpha1.CSIDriverProvider/Mount\n"
	s.eventually(t, "the publish of the pod is a trace", func(context.Context) error {
		for _, span := range s.traces.Spans() {
			if span.Name == "publish" && span.Attributes["k8s.namespace.name"] == ns && s.traces.Tree(span.Trace) == want {
				return nil
			}
		}
		return fmt.Errorf("of %d spans none is", len(s.traces.Spans()))
	})
	if raw := s.traces.Raw(); s.leaks(raw, []byte(token)) {
		t.Errorf("the traces, %d bytes, have a secret", len(raw))
	}
}
