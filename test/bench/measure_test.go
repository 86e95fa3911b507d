package main

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const metrics = `# TYPE apiserver_request_total counter
apiserver_request_total{code="201",component="apiserver",dry_run="",group="secrets-store.csi.x-k8s.io",resource="secretproviderclasspodstatuses",scope="resource",subresource="",verb="POST",version="v1"} 7
apiserver_request_total{code="409",component="apiserver",dry_run="",group="secrets-store.csi.x-k8s.io",resource="secretproviderclasspodstatuses",scope="resource",subresource="",verb="POST",version="v1"} 5
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="pods",scope="cluster",subresource="",verb="LIST",version="v1"} 2
apiserver_request_total{code="200",component="apiserver",dry_run="",group="coordination.k8s.io",resource="leases",scope="resource",subresource="",verb="PUT",version="v1"} 99
apiserver_request_total_more{resource="pods",verb="LIST"} 3
apiserver_other{resource="pods"} 1
`

func TestRequestsAreCountedByVerb(t *testing.T) {
	got, err := parseRequests([]byte(metrics))
	if diff := cmp.Diff(requests{"POST": 12, "LIST": 2}, got); diff != "" || err != nil {
		t.Errorf("requests: %v (-want +got):\n%s", err, diff)
	}
	added := requests{"POST": 15, "LIST": 2, "PATCH": 1}.since(got)
	if diff := cmp.Diff(requests{"POST": 3, "PATCH": 1}, added); diff != "" || added.writes() != 4 {
		t.Errorf("added, %v writes (-want +got):\n%s", added.writes(), diff)
	}
	if got, want := added.String(), "PATCH 1, POST 3"; got != want {
		t.Errorf("written as %q, want %q", got, want)
	}
}

func TestAnHourIsCountedFromACompressedTime(t *testing.T) {
	s := settings{Steady: time.Minute, Compressed: 6} // a tenth of an hour
	before := sight{calls: 10, requests: requests{"PUT": 1}, cpu: time.Second}
	after := sight{calls: 13, requests: requests{"PUT": 3}, cpu: 4 * time.Second}
	got := perHour("x", before, after, s, .01) // 0.6 s of the minute, and 36 s of an hour
	want := steady{Driver: "x", Calls: 30, Requests: requests{"PUT": 20}, CPU: 24*time.Second + 36*time.Second}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b time.Duration) bool { return (a - b).Abs() < time.Microsecond })); diff != "" {
		t.Errorf("in an hour (-want +got):\n%s", diff)
	}
}

func TestAProcessHasMemoryAndTime(t *testing.T) {
	self := &process{name: "self", cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}}
	m, err := memoryOf(self)
	if err != nil || m.RSS < 1<<20 || m.Anon <= 0 || m.Anon > m.RSS || m.PSS > m.RSS {
		t.Errorf("memory %+v, %v", m, err)
	}
	before, err := cpuOf(self)
	for spin := time.Now(); time.Since(spin) < 20*time.Millisecond; {
	}
	after, err2 := cpuOf(self)
	if err := errors.Join(err, err2); err != nil || after <= before {
		t.Errorf("time of processors: %v, then %v, %v", before, after, err)
	}
}

func TestTheTimeOfChildrenIsReadBehindAnyName(t *testing.T) {
	got, err := childrenTime("7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 50 60 150 25 20 0 9 0 1 2 3\n")
	if want := 1750 * time.Millisecond; got != want || err != nil {
		t.Errorf("the time of children is %v, %v, want %v", got, err, want)
	}
	if _, err := childrenTime("7 (a) S 1"); err == nil {
		t.Error("half a line was read")
	}
}

func TestDurationsAndRatiosAreShort(t *testing.T) {
	for d, want := range map[time.Duration]string{0: "-", 1234 * time.Microsecond: "1234 µs", 12345 * time.Microsecond: "12.3 ms", 2340 * time.Millisecond: "2.34 s"} {
		if got := took(d); got != want {
			t.Errorf("took(%d) = %q, want %q", d, got, want)
		}
	}
	if got := ratio(time.Second, 0) + " " + ratio(time.Second, 4*time.Second); got != "- 0.2" {
		t.Errorf("ratios are %q", got)
	}
}

func TestCallersStartTogetherAndErrorsAreKept(t *testing.T) {
	broken := errors.New("broken")
	samples, err := together(3, func(i int) error {
		if i == 1 {
			return broken
		}
		return nil
	})
	if len(samples) != 3 || !errors.Is(err, broken) {
		t.Errorf("together = %v, %v, want three samples and the error", samples, err)
	}
}
