package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// class returns the manifest of a class of the mock provider.
func class(name string, objects ...string) string {
	var list strings.Builder
	for _, o := range objects {
		fmt.Fprintf(&list, "      - objectName: %s\n", o)
	}
	return fmt.Sprintf(`apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: %s}
spec:
  provider: mock
  parameters:
    objects: |
%s`, name, list.String())
}

// with adds a line to the parameters of a class.
func with(class, parameter string) string {
	return strings.Replace(class, "  parameters:\n", "  parameters:\n    "+parameter+"\n", 1)
}

// Shell commands of pods: one ends at once where a volume has no files, the
// other goes on until the pod is to end.
const (
	wholeOrNothing = `for v in /secrets/*; do [ ! -e "$v" ] || [ -n "$(ls "$v")" ] || exit 9; done; `
	waiting        = `trap exit TERM; while :; do sleep 1000 & wait; done`
)

// A podSpec is what a test wants of a pod.
type podSpec struct {
	name     string
	classes  []string // each at /secrets/CLASS
	empty    string   // where it has an emptyDir
	more     string   // lines of the pod's spec
	security string   // of the container
	command  string   // a shell command before it waits, with a semicolon
}

func (s *suite) pod(p podSpec) string {
	var mounts, volumes strings.Builder
	for i, c := range p.classes {
		fmt.Fprintf(&mounts, "    - {name: v%d, mountPath: /secrets/%s, readOnly: true}\n", i, mountOf(p.classes[:i], c))
		fmt.Fprintf(&volumes, "  - {name: v%d, csi: {driver: %s, readOnly: true, volumeAttributes: {secretProviderClass: %s}}}\n", i, driverName, c)
	}
	if p.empty != "" {
		fmt.Fprintf(&mounts, "    - {name: empty, mountPath: %s}\n", p.empty)
		volumes.WriteString("  - {name: empty, emptyDir: {}}\n")
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
%s  containers:
  - name: app
    image: %s
    imagePullPolicy: Never
    command: [sh, -c, '%s']
    securityContext: {%s}
    volumeMounts:
%s  volumes:
%s`, p.name, p.more, s.Images()["busybox"], wholeOrNothing+p.command+waiting, p.security, mounts.String(), volumes.String())
}

// mountOf is the folder of a class; a second volume of it has another.
func mountOf(before []string, class string) string {
	if slices.Contains(before, class) {
		return class + "-again"
	}
	return class
}

// start applies a pod and waits until it has started.
func (s *suite) start(t *testing.T, namespace string, p podSpec) {
	t.Helper()
	s.apply(t, namespace, s.pod(p))
	s.awaitStart(t, namespace, p.name)
}

// awaitStart waits until a pod is ready. Its container must not have started
// before, as it does where it finds a volume without files.
func (s *suite) awaitStart(t *testing.T, namespace, name string) {
	t.Helper()
	s.awaitReady(t, namespace, name)
	pod, err := s.api.CoreV1().Pods(namespace).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.RestartCount != 0 {
			t.Errorf("pod %s: container %s has started before, and ended: %+v", name, c.Name, c.LastTerminationState)
		}
	}
}

func (s *suite) awaitReady(t testing.TB, namespace, name string) {
	t.Helper()
	s.eventually(t, "pod "+name+" is ready", func(ctx context.Context) error { return s.ready(ctx, namespace, name) })
}

// ready says why a pod is not ready.
func (s *suite) ready(ctx context.Context, namespace, name string) error {
	pod, err := s.api.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if isReady(pod) {
		return nil
	}
	return fmt.Errorf("it is %s: %+v", pod.Status.Phase, pod.Status.ContainerStatuses)
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// read returns a file as the pod sees it.
func (s *suite) read(ctx context.Context, namespace, pod, path string) (string, error) {
	return s.kubectl(ctx, "", "exec", "-n", namespace, pod, "--", "cat", path)
}

// sees waits until a file of a pod has the content.
func (s *suite) sees(t *testing.T, namespace, pod, path, want string) {
	t.Helper()
	s.eventually(t, "pod "+pod+" sees "+path, func(ctx context.Context) error {
		got, err := s.read(ctx, namespace, pod, path)
		if err == nil && got != want {
			err = fmt.Errorf("it has %d bytes that are not those stored", len(got))
		}
		return err
	})
}

// remove deletes a pod and waits until it is gone, which needs its volumes
// unmounted. It returns how long that took.
func (s *suite) remove(t *testing.T, namespace, pod string) time.Duration {
	t.Helper()
	if err := s.api.CoreV1().Pods(namespace).Delete(t.Context(), pod, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	return s.within(t, patience, "pod "+pod+" is gone", func(ctx context.Context) error {
		_, err := s.api.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
		return gone(err)
	})
}
