package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// manyPods have volumes of one class and account, so that they share fetches.
const manyPods = 100

var scaling = []scenario{
	{"a volume adds less than a second to the start of a pod", false, startOverhead},
	{"100 pods start, and cost the API server nothing while nothing changes", true, manyVolumes},
}

// startOverhead measures pods one after another, with and without a volume of
// ours.
func startOverhead(t *testing.T, s *suite) {
	ns := s.namespace(t)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": s.canary()}})
	s.apply(t, ns, class("c", "foo"))
	took := map[string][]time.Duration{}
	for i := range 11 {
		for kind, p := range map[string]podSpec{"emptydir": {empty: "/empty"}, "keymount": {classes: []string{"c"}}} {
			p.name = fmt.Sprintf("%s-%d", kind, i)
			took[kind] = append(took[kind], s.timesToReady(t, ns, p)...)
		}
	}
	for kind, times := range took {
		slices.Sort(times)
		measure(t, "pod-start-"+kind+"-median", times[len(times)/2].Seconds(), "s")
		measure(t, "pod-start-"+kind+"-maximum", times[len(times)-1].Seconds(), "s")
	}
	// kubelet looks for mounted volumes every 300 ms, and may do so once more.
	if more := took["keymount"][5] - took["emptydir"][5]; more > time.Second {
		t.Errorf("a pod with a volume of ours takes %v more", more)
	}
}

// timesToReady makes pods at once and returns how long each takes to be ready.
func (s *suite) timesToReady(t testing.TB, ns string, specs ...podSpec) []time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	creating, ctx := errgroup.WithContext(ctx)
	made := make([]time.Time, len(specs))
	for i, p := range specs {
		var pod corev1.Pod
		if err := yaml.Unmarshal([]byte(s.pod(p)), &pod); err != nil {
			t.Fatal(err)
		}
		creating.Go(func() error {
			made[i] = time.Now()
			_, err := s.api.CoreV1().Pods(ns).Create(ctx, &pod, metav1.CreateOptions{})
			return err
		})
	}
	ready := map[string]time.Time{}
	var err error
	for err == nil && len(ready) < len(specs) {
		err = s.watchReady(ctx, ns, specs, ready)
	}
	if err := errors.Join(creating.Wait(), err); err != nil {
		t.Fatalf("%d of %d pods are ready: %v%s", len(ready), len(specs), err, s.describe(ns))
	}
	took := make([]time.Duration, len(specs))
	for i, p := range specs {
		took[i] = ready[p.name].Sub(made[i])
	}
	return took
}

// watchReady notes when it sees that pods are ready, until all are or the
// watch ends, as it does where the API server finds it slow.
func (s *suite) watchReady(ctx context.Context, ns string, specs []podSpec, ready map[string]time.Time) error {
	changes, err := s.api.CoreV1().Pods(ns).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	defer changes.Stop()
	for change := range changes.ResultChan() {
		pod, ok := change.Object.(*corev1.Pod)
		if !ok || !isReady(pod) || !ready[pod.Name].IsZero() {
			continue
		}
		if slices.ContainsFunc(specs, func(p podSpec) bool { return p.name == pod.Name }) {
			ready[pod.Name] = time.Now()
		}
		if len(ready) == len(specs) {
			return nil
		}
	}
	return ctx.Err()
}

func manyVolumes(t *testing.T, s *suite) {
	ns := s.namespace(t)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": s.canary()}})
	s.apply(t, ns, with(class("c", "foo"), "rotationInterval: "+defaultInterval.String()))
	var manifests []string
	for i := range manyPods {
		manifests = append(manifests, s.pod(podSpec{name: fmt.Sprintf("app-%d", i), classes: []string{"c"}}))
	}
	began := time.Now()
	s.apply(t, ns, manifests...)
	s.within(t, 5*time.Minute, "all pods are ready", func(ctx context.Context) error {
		pods, err := s.api.CoreV1().Pods(ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		ready := 0
		for _, p := range pods.Items {
			if isReady(&p) {
				ready++
			}
		}
		if ready < manyPods {
			return fmt.Errorf("%d are", ready)
		}
		return nil
	})
	measure(t, fmt.Sprintf("pods-%d-ready", manyPods), time.Since(began).Seconds(), "s")
	measure(t, fmt.Sprintf("pods-%d-ready-fetches", manyPods), float64(s.asked(t, ns).Mounts), "calls")
	s.eventually(t, "every volume has a status", func(ctx context.Context) error {
		targets, err := s.statusTargets(ctx, ns)
		if err == nil && len(targets) < manyPods {
			err = fmt.Errorf("%d have", len(targets))
		}
		return err
	})
	if writes := s.writes(t, began); len(writes) < manyPods {
		t.Errorf("the audit log tells of %d writes of the driver, want one for each status object at least", len(writes))
	}
	s.unchanged(t, ns)
	s.memory(t)
}

// unchanged watches a while in which nothing changes.
func (s *suite) unchanged(t *testing.T, ns string) {
	t.Helper()
	soak := 4 * time.Minute
	if os.Getenv("SOAK") != "" {
		soak = time.Hour
	}
	wait(t, 15*time.Second) // events of the start are sent
	began, before := time.Now(), s.asked(t, ns).Mounts
	wait(t, soak)
	writes := s.writes(t, began)
	fetches := s.asked(t, ns).Mounts - before
	intervals := int(time.Since(began)/(defaultInterval*9/10)) + 1
	measure(t, fmt.Sprintf("volumes-%d-unchanged-%v-api-writes", manyPods, soak), float64(len(writes)), "requests")
	measure(t, fmt.Sprintf("volumes-%d-unchanged-%v-fetches", manyPods, soak), float64(fetches), "calls")
	if len(writes) > 0 {
		t.Errorf("the driver wrote although nothing changed: %v", writes)
	}
	// One fetch serves all volumes that are due together; a second one may be
	// needed where the first took longer than the results are kept.
	if limit := 2 * intervals; fetches > limit || fetches < intervals/2 {
		t.Errorf("%d fetches, want from %d to %d", fetches, intervals/2, limit)
	}
}

// wait lets real time pass: nothing is to happen in it.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.After(d):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// writes returns what the driver has written to the API server since then.
func (s *suite) writes(t *testing.T, since time.Time) []string {
	t.Helper()
	return s.requests(t, since, "create", "update", "patch", "delete")
}

// requests returns what the driver has asked of the API server since then, in
// those ways.
func (s *suite) requests(t *testing.T, since time.Time, verbs ...string) []string {
	t.Helper()
	log, err := os.Open(s.AuditLog())
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var found []string
	lines := bufio.NewScanner(log)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Verb, RequestURI         string
			User                     struct{ Username string }
			RequestReceivedTimestamp time.Time
		}
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.User.Username != driverAccount || e.RequestReceivedTimestamp.Before(since) {
			continue
		}
		if slices.Contains(verbs, e.Verb) {
			found = append(found, e.Verb+" "+e.RequestURI)
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return found
}

// memory prints what the two containers use.
func (s *suite) memory(t *testing.T) {
	t.Helper()
	found := 0
	for pid, program := range processes(t, driverProgram, providerProgram) {
		status := statusOf(t, pid)
		for _, field := range []string{"VmRSS", "RssAnon"} {
			kilobytes, err := strconv.ParseFloat(strings.TrimSuffix(status[field], " kB"), 64)
			if err != nil {
				t.Error(err)
			}
			found++
			measure(t, fmt.Sprintf("memory-%s-%d-volumes-%s", strings.TrimPrefix(program, "/"), manyPods, field), kilobytes, "kB")
		}
	}
	if found < 4 {
		t.Errorf("%d values were found, want two of each of two programs", found)
	}
}
