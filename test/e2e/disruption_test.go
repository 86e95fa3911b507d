package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var disruptions = []scenario{
	{"the driver is killed", true, survives((*suite).killDriver)},
	{"the driver's pod is deleted without grace", false, survives((*suite).deleteDriver)},
	{"the DaemonSet is rolled", false, survives((*suite).restartDriver)},
	{"kubelet is restarted", true, survives((*suite).restartKubelet)},
	{"the API server is away for a minute", true, survives((*suite).stopAPI)},
	{"a pod that is deleted while its driver is away goes when it is back", false, deletedMeanwhile},
	{"the node is rebooted, and pods get their files again", true, reboot},
}

// survives checks that a pod keeps its files during a disruption, that rotation
// goes on after it, and that the pod can be deleted.
func survives(disrupt func(*suite, *testing.T)) func(*testing.T, *suite) {
	return func(t *testing.T, s *suite) {
		ns := s.namespace(t)
		first, second := s.canary(), s.canary()
		s.mock(t, ns, answer{Objects: map[string]string{"foo": first}})
		s.apply(t, ns, with(class("c", "foo"), "rotationInterval: 3s"))
		s.start(t, ns, podSpec{name: "app", classes: []string{"c"}, command: reading})
		disrupt(s, t)
		s.sees(t, ns, "app", "/secrets/c/foo", first)
		s.mock(t, ns, answer{Objects: map[string]string{"foo": second}})
		s.sees(t, ns, "app", "/secrets/c/foo", second)
		s.alwaysRead(t, ns, "app")
		s.start(t, ns, podSpec{name: "later", classes: []string{"c"}})
		s.remove(t, ns, "app")
		s.remove(t, ns, "later")
		s.noMountIsLeft(t)
	}
}

// reading is a shell command that reads the file foo of the class c all the
// time, and notes when it was missing or empty.
const reading = `while sleep 0.02; do if [ -n "$(cat /secrets/c/foo)" ]; then : >/tmp/read; else date >>/tmp/missed; fi; done & `

// alwaysRead checks that a pod that is reading found its file each time.
func (s *suite) alwaysRead(t *testing.T, ns, pod string) {
	t.Helper()
	if out, err := s.kubectl(t.Context(), "", "exec", "-n", ns, pod, "--", "sh", "-c", "test -e /tmp/read && ! cat /tmp/missed 2>/dev/null"); err != nil {
		t.Errorf("the file was missing for moments, or was not read: %s%v", out, err)
	}
}

func (s *suite) killDriver(t *testing.T) {
	t.Helper()
	s.kill(t, driverProgram)
}

// kill kills the process of one of the driver's containers, as the kernel does
// when memory is out, and waits until the driver is back.
func (s *suite) kill(t *testing.T, target string) {
	t.Helper()
	before := s.restarts(t)
	killed := 0
	for pid := range processes(t, target) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		killed++
	}
	if killed == 0 {
		t.Fatalf("there is no process of %s", target)
	}
	s.eventually(t, "the driver is back", func(context.Context) error {
		if s.restarts(t) == before {
			return fmt.Errorf("its container was not restarted")
		}
		return s.driverReady(t.Context())
	})
}

// deleteDriver deletes the driver's pods without giving them time to end.
func (s *suite) deleteDriver(t *testing.T) {
	t.Helper()
	s.keepLogs(t)
	pods, err := s.driverPods(t.Context())
	if err != nil || len(pods) == 0 {
		t.Fatal(len(pods), err)
	}
	for _, p := range pods {
		if err := s.api.CoreV1().Pods(system).Delete(t.Context(), p.Name, *metav1.NewDeleteOptions(0)); err != nil {
			t.Fatal(err)
		}
	}
	s.eventually(t, "the driver is back", func(ctx context.Context) error {
		if _, err := s.api.CoreV1().Pods(system).Get(ctx, pods[0].Name, metaGet); err == nil {
			return fmt.Errorf("its pod is still there")
		}
		return s.driverReady(ctx)
	})
}

// restarts counts the restarts of the driver's containers.
func (s *suite) restarts(t *testing.T) (n int32) {
	t.Helper()
	pods, err := s.driverPods(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pods {
		for _, c := range p.Status.ContainerStatuses {
			n += c.RestartCount
		}
	}
	return n
}

// driverReady says why a pod of the driver is not ready.
func (s *suite) driverReady(ctx context.Context) error {
	pods, err := s.driverPods(ctx)
	if err != nil {
		return err
	}
	if len(pods) == 0 {
		return fmt.Errorf("there is no pod of the driver")
	}
	for _, p := range pods {
		if err := s.ready(ctx, system, p.Name); err != nil {
			return err
		}
	}
	return nil
}

func (s *suite) restartKubelet(t *testing.T) {
	t.Helper()
	for _, step := range []func(string) error{s.Stop, s.Start} {
		if err := step("kubelet"); err != nil {
			t.Fatal(err)
		}
	}
	s.nodeReady(t)
	s.awaitDriver(t)
}

func (s *suite) nodeReady(t *testing.T) {
	t.Helper()
	began := metav1.Now()
	s.eventually(t, "kubelet says that the node is ready", func(ctx context.Context) error {
		nodes, err := s.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, n := range nodes.Items {
			for _, c := range n.Status.Conditions {
				if c.Type == corev1.NodeReady && (c.Status != corev1.ConditionTrue || c.LastHeartbeatTime.Before(&began)) {
					return fmt.Errorf("node %s: %s as of %v", n.Name, c.Status, c.LastHeartbeatTime)
				}
			}
		}
		return nil
	})
}

func (s *suite) stopAPI(t *testing.T) {
	t.Helper()
	if err := s.Stop("kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	wait(t, time.Minute)
	if err := s.Start("kube-apiserver"); err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "the API server is back", func(ctx context.Context) error {
		_, err := s.api.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		return err
	})
}

func deletedMeanwhile(t *testing.T, s *suite) {
	ns := s.namespace(t)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": s.canary()}})
	s.apply(t, ns, class("c", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	s.keepLogs(t)
	s.driversOn(t, `"nowhere"`)
	s.eventually(t, "the driver is gone", func(ctx context.Context) error {
		if pods, err := s.driverPods(ctx); err != nil || len(pods) > 0 {
			return fmt.Errorf("%d pods, %w", len(pods), err)
		}
		return nil
	})
	if err := s.api.CoreV1().Pods(ns).Delete(t.Context(), "app", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wait(t, 10*time.Second)
	if _, err := s.api.CoreV1().Pods(ns).Get(t.Context(), "app", metaGet); err != nil {
		t.Errorf("the pod, whose volume nobody can unmount: %v", err)
	}
	s.driversOn(t, "null")
	s.eventually(t, "the pod is gone", func(ctx context.Context) error {
		_, err := s.api.CoreV1().Pods(ns).Get(ctx, "app", metaGet)
		return gone(err)
	})
	s.noMountIsLeft(t)
	s.eventually(t, "the driver is ready", s.driverReady)
}

// driversOn lets the driver run only on nodes that have the label "run" with
// the value, in JSON.
func (s *suite) driversOn(t *testing.T, value string) {
	t.Helper()
	patch := `{"spec":{"template":{"spec":{"nodeSelector":{"run":` + value + `}}}}}`
	if _, err := s.kubectl(t.Context(), "", "patch", "daemonset", "keymount", "-n", system, "--patch", patch); err != nil {
		t.Fatal(err)
	}
}

func reboot(t *testing.T, s *suite) {
	ns := s.namespace(t)
	foo := s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo}})
	s.apply(t, ns, class("c", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	s.keepLogs(t)
	if err := s.Reboot(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.nodeReady(t)
	s.awaitReady(t, mockNamespace, "mock")
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo}}) // it has forgotten
	s.eventually(t, "the driver is ready", s.driverReady)
	s.sees(t, ns, "app", "/secrets/c/foo", foo)
	s.remove(t, ns, "app")
	s.noMountIsLeft(t)
}
