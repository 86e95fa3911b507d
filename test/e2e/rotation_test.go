package e2e

import (
	"context"
	"fmt"
	"math"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

var rotating = []scenario{
	{"a change is in the pod within the interval of its class, 5 s", false, rotatesWithin(5 * time.Second)},
	{"a change is in the pod within the interval of its class, 30 s", false, rotatesWithin(30 * time.Second)},
	{"an edited class reaches a running pod", false, editedClass},
	{"a deleted class leaves the pod its files, and says so until it is back", false, deletedClass},
}

// rotatesWithin checks three changes. The first refresh of a volume may come
// after 110 % of the interval, the others after 100 %.
func rotatesWithin(interval time.Duration) func(*testing.T, *suite) {
	return func(t *testing.T, s *suite) {
		ns := s.namespace(t)
		s.mock(t, ns, answer{Objects: map[string]string{"foo": s.canary()}})
		s.apply(t, ns, with(class("c", "foo"), "rotationInterval: "+interval.String()))
		s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
		limit := interval + interval/10 + 2*time.Second
		for range 3 {
			next := s.canary()
			s.mock(t, ns, answer{Objects: map[string]string{"foo": next}})
			took := s.within(t, limit, "the pod sees the change", func(ctx context.Context) error {
				got, err := s.read(ctx, ns, "app", "/secrets/c/foo")
				if err == nil && got != next {
					err = fmt.Errorf("it sees the one before")
				}
				return err
			})
			measure(t, fmt.Sprintf("rotation-interval-%v", interval), took.Seconds(), "s")
		}
		if held := s.asked(t, ns).Current; held["secret/foo"] == "" {
			t.Errorf("the provider was told that the volume holds %v", held)
		}
		s.event(t, ns, "app", "MountRotationComplete", "secret/foo")
	}
}

func editedClass(t *testing.T, s *suite) {
	ns := s.namespace(t)
	foo, bar := s.canary(), s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo, "bar": bar}})
	s.apply(t, ns, with(class("c", "foo"), `rotationInterval: "0"`))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	s.apply(t, ns, with(class("c", "foo", "bar"), `rotationInterval: "0"`))
	s.sees(t, ns, "app", "/secrets/c/bar", bar)
	s.apply(t, ns, with(class("c", "bar"), `rotationInterval: "0"`))
	s.eventually(t, "foo is gone", func(ctx context.Context) error {
		if _, err := s.read(ctx, ns, "app", "/secrets/c/foo"); err == nil {
			return fmt.Errorf("it is there")
		}
		return nil
	})
	s.sees(t, ns, "app", "/secrets/c/bar", bar)
	pod, err := s.api.CoreV1().Pods(ns).Get(t.Context(), "app", metaGet)
	if err != nil || pod.Status.ContainerStatuses[0].RestartCount != 0 || pod.Status.Phase != corev1.PodRunning {
		t.Errorf("the pod: %v, %v", pod.Status, err)
	}
}

func deletedClass(t *testing.T, s *suite) {
	ns := s.namespace(t)
	foo := s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": foo}})
	s.apply(t, ns, class("c", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	if _, err := s.kubectl(t.Context(), "", "delete", "secretproviderclass", "-n", ns, "c"); err != nil {
		t.Fatal(err)
	}
	s.event(t, ns, "app", "MountRotationFailed", "class not found")
	s.awaitCondition(t, ns, "app-"+ns+"-c", "Stale", "True NotFound")
	s.sees(t, ns, "app", "/secrets/c/foo", foo)
	s.apply(t, ns, class("c", "foo"))
	s.awaitCondition(t, ns, "app-"+ns+"-c", "Stale", "False Fresh")
	s.event(t, ns, "app", "MountRotationRecovered", "up to date again")
}

// awaitCondition waits until a status object has a condition of that status
// and reason.
func (s *suite) awaitCondition(t *testing.T, ns, name, condition, want string) {
	t.Helper()
	s.eventually(t, "condition "+condition, func(context.Context) error {
		if got := conditions(s.status(t, ns, name))[condition]; got != want {
			return fmt.Errorf("it is %q, want %q", got, want)
		}
		return nil
	})
}

// measure prints a number that documents may show.
func measure(t *testing.T, name string, value float64, unit string) {
	t.Helper()
	remark(t, "e2e-measure: %s=%s %s", name, strconv.FormatFloat(math.Round(value*1000)/1000, 'f', -1, 64), unit)
}
