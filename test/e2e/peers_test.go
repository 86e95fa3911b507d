package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	peersInterval = 2 * time.Minute // that of both charts
	peersRounds   = 20              // of pods one after another, in each turn
)

// Where BenchmarkPods writes what it measured, an absolute path; and how often
// it installs each driver, once unless this says so.
const (
	peersOut   = "E2E_PEERS_OUT"
	peersTurns = "E2E_PEERS_TURNS"
)

// A peer is one of two drivers of the same name, so that only one can be there.
type peer struct {
	name            string
	install, remove func(testing.TB)
}

// peers are the drivers as they are released, except that nobody asks kubelet
// for tokens, since the mock provider needs none.
func (s *suite) peers() []peer {
	return []peer{
		{"keymount", func(t testing.TB) {
			s.takeOverWith(t, append(image(), "--set", "rotation.interval="+peersInterval.String(), "--set-json", "csiDriver.tokenRequests=[]"))
		}, s.clear},
		{"upstream", func(t testing.TB) {
			s.installUpstream(t, peersInterval, upstreamClasses, upstreamStatuses, "csidriver.yaml", "rbac-secretproviderclass.yaml")
			s.await(t, "kube-system", "daemonset/csi-secrets-store")
		}, s.removeUpstream},
	}
}

// podStarts are how long pods of one kind took from their creation until they
// were ready.
type podStarts struct {
	Single []time.Duration // one after another
	Burst  []time.Duration // manyPods at once, all turns
	Last   []time.Duration // until the last of those was ready, for each turn
	Calls  []int           // of the provider, for those
	CPU    []time.Duration // of the driver's processes, for those
}

// starts are those of each kind of pods while one driver is installed.
type starts map[string]*podStarts

// BenchmarkPods measures the start of pods without a volume, with an emptyDir
// and with a volume of either driver. `make bench-peers E2E=1` runs it.
func BenchmarkPods(b *testing.B) {
	s := newSuite(b)
	b.Cleanup(func() {
		if b.Failed() {
			b.Log(s.describe(mockNamespace), s.describe(system), s.describe("kube-system"))
		}
	})
	s.startMock(b)
	s.measureBurst(b, s.namespace(b), podSpec{name: "warm"}, &podStarts{}) // the first ones take longer
	all := map[string]starts{}
	for turn := range turns(b) {
		for _, p := range s.peers() {
			if all[p.name] == nil {
				all[p.name] = starts{"none": {}, "emptydir": {}, "volume": {}}
			}
			p.install(b)
			s.measureStarts(b, turn, all[p.name])
			p.remove(b)
		}
	}
	b.ReportMetric(0, "ns/op") // says nothing
	for driver, took := range all {
		for kind, k := range took {
			b.ReportMetric(slices.Sorted(slices.Values(k.Single))[len(k.Single)/2].Seconds(), driver+"-"+kind+"-s/pod")
			b.ReportMetric(slices.Max(k.Last).Seconds(), fmt.Sprintf("%s-%s-s/%dpods", driver, kind, manyPods))
		}
	}
	if out := os.Getenv(peersOut); out != "" {
		text, err := json.Marshal(all)
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(out, text, 0o644); err != nil {
			b.Fatal(err)
		}
	}
}

func turns(b *testing.B) int {
	b.Helper()
	text := os.Getenv(peersTurns)
	if text == "" {
		return 1
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		b.Fatalf("%s is %q, want a number above 0", peersTurns, text)
	}
	return n
}

// measureStarts adds the starts of pods while a driver is installed. No pod
// has a volume that is not to be measured, such as that of its token.
func (s *suite) measureStarts(t testing.TB, turn int, took starts) {
	t.Helper()
	ns := s.namespace(t)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": s.canary()}})
	s.apply(t, ns, class("c", "foo"))
	kinds := []podSpec{{name: "none"}, {name: "emptydir", empty: "/empty"}, {name: "volume", classes: []string{"c"}}}
	for i := range kinds {
		kinds[i].more = "  automountServiceAccountToken: false\n"
	}
	for round := range peersRounds {
		for _, k := range rotated(kinds, round) {
			of := took[k.name]
			of.Single = append(of.Single, s.timesToReady(t, ns, numbered(k, round))...)
		}
	}
	s.removePods(t, ns)
	for _, k := range rotated(kinds, turn) {
		s.measureBurst(t, ns, k, took[k.name])
	}
}

// measureBurst adds the starts of manyPods at once.
func (s *suite) measureBurst(t testing.TB, ns string, kind podSpec, to *podStarts) {
	t.Helper()
	var pods []podSpec
	for i := range manyPods {
		pods = append(pods, numbered(kind, peersRounds+i))
	}
	before, busy, began := s.asked(t, ns).Mounts, driverTime(t), time.Now()
	to.Burst = append(to.Burst, s.timesToReady(t, ns, pods...)...)
	to.Last = append(to.Last, time.Since(began))
	to.CPU = append(to.CPU, driverTime(t)-busy)
	to.Calls = append(to.Calls, s.asked(t, ns).Mounts-before)
	s.removePods(t, ns)
}

// driverTime returns the time of processors that the driver has used, whichever
// it is, with the programs that it has run.
func driverTime(t testing.TB) (total time.Duration) {
	t.Helper()
	for pid := range processes(t, driverProgram, providerProgram, "/secrets-store-csi-driver") {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		for _, field := range fields[11:15] { // hundredths of a second, of itself and of children that have ended
			n, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			total += time.Duration(n) * time.Second / 100
		}
	}
	return total
}

// rotated lets another kind be the first each time.
func rotated(kinds []podSpec, n int) []podSpec {
	n %= len(kinds)
	return slices.Concat(kinds[n:], kinds[:n])
}

// numbered returns the pod of a kind with that number.
func numbered(kind podSpec, n int) podSpec {
	kind.name = fmt.Sprintf("%s-%d", kind.name, n)
	return kind
}

// removePods removes all pods of a namespace, and waits until they are gone.
func (s *suite) removePods(t testing.TB, ns string) {
	t.Helper()
	pods := s.api.CoreV1().Pods(ns)
	if err := pods.DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
	s.within(t, 5*time.Minute, "all pods are gone", func(ctx context.Context) error {
		left, err := pods.List(ctx, metav1.ListOptions{})
		if err == nil && len(left.Items) > 0 {
			err = fmt.Errorf("%d are left", len(left.Items))
		}
		return err
	})
}
