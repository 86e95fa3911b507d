package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var outages = []scenario{
	{"a pod whose provider is not there waits, and starts by itself with its files", false, providerAbsent},
	{"a pod never starts empty: Canceled", false, failsFirst(codes.Canceled)},
	{"a pod never starts empty: DeadlineExceeded", false, failsFirst(codes.DeadlineExceeded)},
	{"a pod never starts empty: Unavailable", false, failsFirst(codes.Unavailable)},
	{"a pod never starts empty: ResourceExhausted", false, failsFirst(codes.ResourceExhausted)},
	{"a pod never starts empty: Aborted", false, failsFirst(codes.Aborted)},
	{"a pod never starts empty: PermissionDenied", false, failsFirst(codes.PermissionDenied)},
	{"a pod never starts empty: an error code of the protocol", false, failsByErrorCode},
	{"a provider that hangs delays no other pod, and a pod that waits for it can go", false, providerHangs},
	{"a provider that fails later leaves the pod its files, and says so", false, failsLater},
}

func providerAbsent(t *testing.T, s *suite) {
	ns := s.namespace(t)
	foo := s.canary()
	if err := s.api.CoreV1().Pods(mockNamespace).Delete(t.Context(), "mock", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "the provider is gone", func(ctx context.Context) error {
		_, err := s.api.CoreV1().Pods(mockNamespace).Get(ctx, "mock", metaGet)
		return gone(err)
	})
	s.apply(t, ns, class("c", "foo"), s.pod(podSpec{name: "app", classes: []string{"c"}}))
	s.event(t, ns, "app", "PublishFailed", `provider "mock"`)
	s.event(t, ns, "app", "FailedMount", `provider "mock"`)
	if s.ready(t.Context(), ns, "app") == nil {
		t.Error("the pod is ready without its provider")
	}
	s.startMock(t)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo}})
	s.awaitStart(t, ns, "app")
	s.sees(t, ns, "app", "/secrets/c/foo", foo)
}

func failsFirst(code codes.Code) func(*testing.T, *suite) {
	cause := "the store says " + code.String()
	return func(t *testing.T, s *suite) { s.startsWhole(t, answer{Code: code, Message: cause}, cause) }
}

func failsByErrorCode(t *testing.T, s *suite) {
	s.startsWhole(t, answer{ErrorCode: "StoreIsClosed"}, "StoreIsClosed")
}

// startsWhole lets the first calls of a pod fail: kubelet tries again, and only
// a call that brought files may let the pod start.
func (s *suite) startsWhole(t *testing.T, failure answer, cause string) {
	t.Helper()
	ns := s.namespace(t)
	foo := s.canary()
	s.mock(t, ns, failure)
	s.apply(t, ns, class("c", "foo"), s.pod(podSpec{name: "app", classes: []string{"c"}}))
	s.event(t, ns, "app", "PublishFailed", cause)
	s.event(t, ns, "app", "FailedMount", cause)
	s.eventually(t, "kubelet tries again", func(context.Context) error {
		if n := s.asked(t, ns).Mounts; n < 3 {
			return fmt.Errorf("%d calls", n)
		}
		return nil
	})
	pod, err := s.api.CoreV1().Pods(ns).Get(t.Context(), "app", metaGet)
	if err != nil || len(pod.Status.ContainerStatuses) == 0 || pod.Status.ContainerStatuses[0].State.Waiting == nil {
		t.Fatalf("the container does not wait: %v, %v", pod.Status.ContainerStatuses, err)
	}
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo}})
	s.awaitStart(t, ns, "app")
	s.sees(t, ns, "app", "/secrets/c/foo", foo)
}

// providerHangs shortens the time that a provider has: kubelet does not ask to
// unmount a volume before its call to mount it has ended.
func providerHangs(t *testing.T, s *suite) {
	s.install(t, "driver.extraArgs={--provider-timeout=15s}")
	hanging, other := s.namespace(t), s.namespace(t)
	foo := s.canary()
	s.mock(t, hanging, answer{Delay: time.Hour})
	s.mock(t, other, answer{Objects: map[string]string{"foo": foo}})
	s.apply(t, hanging, class("c", "foo"))
	s.apply(t, other, class("c", "foo"))
	for _, name := range []string{"one", "two", "three"} {
		s.apply(t, hanging, s.pod(podSpec{name: name, classes: []string{"c"}}))
	}
	s.eventually(t, "the provider hangs", func(context.Context) error {
		if s.asked(t, hanging).Mounts == 0 {
			return fmt.Errorf("it was not called")
		}
		return nil
	})
	s.apply(t, other, s.pod(podSpec{name: "app", classes: []string{"c"}}))
	s.within(t, 20*time.Second, "the other pod is ready", func(ctx context.Context) error { return s.ready(ctx, other, "app") })
	s.sees(t, other, "app", "/secrets/c/foo", foo)
	s.event(t, hanging, "one", "PublishFailed", `provider "mock" did not answer within 15s`)
	if _, err := s.kubectl(t.Context(), "", "delete", "pods", "--all", "-n", hanging, "--wait=false"); err != nil {
		t.Fatal(err)
	}
	s.within(t, time.Minute, "all pods are gone", func(ctx context.Context) error {
		pods, err := s.api.CoreV1().Pods(hanging).List(ctx, metav1.ListOptions{})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("there are %d", len(pods.Items))
		}
		return err
	})
	s.remove(t, other, "app")
	s.noMountIsLeft(t)
	s.install(t)
}

func failsLater(t *testing.T, s *suite) {
	ns := s.namespace(t)
	foo := s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo}})
	s.apply(t, ns, with(class("c", "foo"), "rotationInterval: 2s"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	s.mock(t, ns, answer{Code: codes.PermissionDenied, Message: "the store refuses"})
	s.event(t, ns, "app", "MountRotationFailed", "the store refuses")
	s.awaitCondition(t, ns, "app-"+ns+"-c", "Stale", "True Denied")
	s.sees(t, ns, "app", "/secrets/c/foo", foo)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo}})
	s.event(t, ns, "app", "MountRotationRecovered", "up to date again")
	s.awaitCondition(t, ns, "app-"+ns+"-c", "Stale", "False Fresh")
}
