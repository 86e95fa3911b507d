package kube

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// statuses runs a driver's status objects until the test ends.
func (s *stage) statuses(node string) *Statuses {
	st := NewStatuses(s.client, &s.volumes, node)
	s.run(func(done <-chan struct{}) error {
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-done; cancel() }()
		return st.Run(ctx, func(volume.Record, []string) {})
	})
	s.eventually("the list of the start", func() bool { return len(s.requests("GET "+custom+"/secretproviderclasspodstatuses")) > 0 })
	return st
}

// idle waits until nothing is left to write.
func (s *stage) idle(st *Statuses) {
	s.t.Helper()
	s.eventually("the queue is empty", func() bool { return st.queue.Len() == 0 })
}

func TestAPublishedVolumeHasAStatus(t *testing.T) {
	s := newStage(t)
	st := s.statuses("node-1")
	turn := s.publish(aVolume("1"), publish.Created)
	turn.Result.Class = &class.Class{Generation: 3}
	st.Ended(turn)
	at := statuses + "p-1-ns-c"
	s.eventually("the status", func() bool { return s.get(at) != nil })
	is := s.get(at)
	for _, c := range []struct {
		field []string
		want  any
	}{
		{[]string{"metadata", "labels"}, object{"internal.secrets-store.csi.k8s.io/node-name": "node-1"}},
		{[]string{"metadata", "ownerReferences"}, []any{object{"apiVersion": "v1", "kind": "Pod", "name": "p-1", "uid": "u-1"}}},
		{[]string{"status", "podName"}, "p-1"},
		{[]string{"status", "secretProviderClassName"}, "c"},
		{[]string{"status", "mounted"}, true},
		{[]string{"status", "targetPath"}, aVolume("1").Target},
		{[]string{"status", "objects"}, []any{object{"id": "a", "version": "1"}, object{"id": "b", "version": "1"}}},
		{[]string{"status", "classGeneration"}, float64(3)},
	} {
		if diff := cmp.Diff(c.want, field(is, c.field...)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.field, diff)
		}
	}
	if got := conditionsOf(is); got != "Ready=True/Published Stale=False/Fresh" {
		t.Errorf("conditions: %s", got)
	}
}

func conditionsOf(o object) string {
	var all []string
	list, _ := field(o, "status", "conditions").([]any)
	for _, c := range list {
		c, _ := c.(object)
		all = append(all, fmt.Sprintf("%v=%v/%v", c["type"], c["status"], c["reason"]))
	}
	return strings.Join(all, " ")
}

func TestAStatusIsWrittenOnlyWhenItSaysSomethingNew(t *testing.T) {
	s := newStage(t)
	st := s.statuses("n")
	rec := aVolume("1")
	wrote := 0
	for _, step := range []struct {
		name   string
		change func() Turn
		writes int
	}{
		{"the first publish", func() Turn { return s.publish(rec, publish.Created) }, 1},
		{"nothing is due", func() Turn { return s.publish(rec, publish.NotDue) }, 0},
		{"an unchanged poll", func() Turn { rec.Refreshed = rec.Refreshed.Add(time.Minute); return s.publish(rec, publish.Unchanged) }, 0},
		{"a rotation", func() Turn {
			rec.Held.Versions = provider.Versions{"a": "2", "b": "1"}
			return s.publish(rec, publish.Rotated)
		}, 1},
		{"a failure", func() Turn { return s.stale(rec, fmt.Errorf("the store is away: %w", provider.ErrUnavailable)) }, 1},
		{"the same failure", func() Turn { return s.stale(rec, fmt.Errorf("the store is away: %w", provider.ErrUnavailable)) }, 0},
		{"the same failure in other words", func() Turn { return s.stale(rec, fmt.Errorf("request 7: %w", provider.ErrUnavailable)) }, 0},
		{"another failure", func() Turn { return s.stale(rec, fmt.Errorf("no: %w", provider.ErrDenied)) }, 1},
		{"recovery", func() Turn { return s.publish(rec, publish.Unchanged) }, 1},
		{"a failed publish of another volume", func() Turn {
			return Turn{Volume: "2", Class: className, Pod: provider.Pod{Namespace: "ns", Name: "p-2"}, Err: provider.ErrDenied}
		}, 0},
	} {
		st.Ended(step.change())
		s.idle(st)
		wrote += step.writes
		s.eventually(step.name, func() bool { return len(s.writes()) >= wrote })
		st.Ended(Turn{Volume: "nobody's"})
		s.idle(st)
		if got := len(s.writes()); got != wrote {
			t.Fatalf("%s: %d writes, want %d", step.name, got, wrote)
		}
	}
}

func TestARestartedDriverListsOnceAndWritesNothing(t *testing.T) {
	s := newStage(t)
	st := s.statuses("n")
	for i := range 100 {
		st.Ended(s.publish(aVolume(fmt.Sprint(i)), publish.Created))
	}
	s.eventually("all are written", func() bool { return len(s.writes()) == 100 })
	s.idle(st)
	s.mu.Lock()
	s.calls = nil
	s.mu.Unlock()
	again := s.statuses("n")
	s.eventually("all are known", func() bool {
		again.mu.Lock()
		defer again.mu.Unlock()
		return len(again.known) == 100
	})
	s.idle(again)
	again.Ended(s.publish(aVolume("7"), publish.NotDue))
	s.idle(again)
	if got := s.requests(""); len(got) != 1 {
		t.Errorf("requests: %q, want one list", got)
	}
}

func TestNamesThatClash(t *testing.T) {
	long := strings.Repeat("x", 250)
	for _, c := range []struct {
		name  string
		there object // at the usual name
		rec   func(*volume.Record)
		usual bool // whether the usual name is taken
	}{
		{"nobody has the name", nil, func(*volume.Record) {}, true},
		{"another volume of the pod has it", aStatus("p-1", "c", "/elsewhere", "u-1"), func(*volume.Record) {}, false},
		{"another pod has it", aStatus("p", "1-ns-c", "/elsewhere", "u-9"), func(*volume.Record) {}, false},
		{"an earlier pod of the name had it", aStatus("p-1", "c", "/elsewhere", "u-0"), func(*volume.Record) {}, true},
		{"the upstream driver wrote it", aStatus("p-1", "c", aVolume("1").Target, "u-1"), func(*volume.Record) {}, true},
		{"somebody made an empty one", object{"apiVersion": groupVersion.String(), "kind": "SecretProviderClassPodStatus"}, func(*volume.Record) {}, true},
		{"it is too long", nil, func(rec *volume.Record) { rec.Class.Name = long }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			usual := statuses + "p-1-ns-c"
			if c.there != nil {
				s.put(usual, c.there)
			}
			st := s.statuses("n")
			rec := aVolume("1")
			c.rec(&rec)
			st.Ended(s.publish(rec, publish.Created))
			var found []string
			s.eventually("the status", func() bool {
				found = nil
				s.mu.Lock()
				defer s.mu.Unlock()
				for at, o := range s.objects {
					if strings.HasPrefix(at, statuses) && field(o, "status", "targetPath") == rec.Target && conditionsOf(o) != "" {
						found = append(found, strings.TrimPrefix(at, statuses))
					}
				}
				return len(found) == 1
			})
			if got := found[0] == "p-1-ns-c"; got != c.usual || len(found[0]) > 253 {
				t.Errorf("the status is named %s", found[0])
			}
			if there := s.get(usual); c.there != nil && !c.usual && field(there, "status", "targetPath") != "/elsewhere" {
				t.Errorf("the other status was changed: %v", there)
			}
		})
	}
}

func aStatus(pod, class, target, uid string) object {
	return object{
		"apiVersion": groupVersion.String(), "kind": "SecretProviderClassPodStatus",
		"metadata": object{"ownerReferences": []object{{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}}},
		"status":   object{"podName": pod, "secretProviderClassName": class, "targetPath": target, "mounted": true},
	}
}

func TestAWriteThatFailsIsMadeUpFor(t *testing.T) {
	s := newStage(t)
	st := s.statuses("n")
	failures := 2
	s.mu.Lock()
	s.refuse = func(verb, _ string) int {
		if verb == http.MethodPatch && failures > 0 {
			failures--
			return http.StatusServiceUnavailable
		}
		return 0
	}
	s.mu.Unlock()
	st.Ended(s.publish(aVolume("1"), publish.Created))
	s.eventually("the status", func() bool { return s.get(statuses+"p-1-ns-c") != nil })
}

func TestAVolumeThatIsGoneIsNotWritten(t *testing.T) {
	s := newStage(t)
	st := s.statuses("n")
	turn := s.publish(aVolume("1"), publish.Created)
	if err := s.volumes.Delete("1"); err != nil {
		t.Fatal(err)
	}
	st.Ended(turn) // it came late
	st.Gone("1")
	st.Ended(s.publish(aVolume("2"), publish.Created))
	s.eventually("the other status", func() bool { return s.get(statuses+"p-2-ns-c") != nil })
	s.idle(st)
	if got := s.writes(); !slices.Equal(got, []string{"PATCH " + statuses + "p-2-ns-c"}) {
		t.Errorf("writes: %q", got)
	}
}

func TestNamesFit(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit int
		want  string
	}{
		{"short", 63, "short"},
		{strings.Repeat("n", 63), 63, strings.Repeat("n", 63)},
		{strings.Repeat("n", 51) + "." + strings.Repeat("n", 40), 63, strings.Repeat("n", 51) + "-"},
	} {
		got := fit(c.name, c.limit)
		if len(got) > c.limit || !strings.HasPrefix(got, c.want) || got != fit(c.name, c.limit) {
			t.Errorf("fit(%q, %d) = %q", c.name, c.limit, got)
		}
	}
	a, b := fit(strings.Repeat("n", 100)+"a", 63), fit(strings.Repeat("n", 100)+"b", 63)
	if a == b {
		t.Errorf("two names become %q", a)
	}
}
