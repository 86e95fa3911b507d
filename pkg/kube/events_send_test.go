package kube

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

var aPod = provider.Pod{Namespace: "ns", Name: "p-1", UID: "u-1"}

// events runs a driver's events until the test ends.
func (s *stage) events() *Events {
	e := NewEvents(s.client, "node-1", nil)
	s.run(func(done <-chan struct{}) error { return e.Run(until(done)) })
	return e
}

// reasons returns those of the events that the API server has.
func (f *fakeAPI) reasons() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []string
	for at, o := range f.objects {
		if strings.HasPrefix(at, events) {
			all = append(all, fmt.Sprint(o["reason"]))
		}
	}
	slices.Sort(all)
	return all
}

func TestAPodThatRotatesAllTheTimeStillHearsOfTheRest(t *testing.T) {
	const many = 100
	s := newStage(t)
	e := s.events()
	for i := range many {
		e.Event(aPod, "Normal", reasonRotated, fmt.Sprint(i))
	}
	e.Event(aPod, "Normal", reasonRecovered, "it recovered")
	s.eventually("the last event", func() bool { return slices.Contains(s.reasons(), reasonRecovered) })
	if got := len(s.writes()); got > many/3 {
		t.Errorf("%d writes for %d events of one kind", got, many)
	}
}

func TestAnEventThatHasExpiredIsSaidAnew(t *testing.T) {
	s := newStage(t)
	e := s.events()
	e.Event(aPod, "Warning", reasonPublishFailed, "why")
	s.eventually("the event", func() bool { return len(s.reasons()) == 1 })
	s.mu.Lock()
	s.refuse = func(verb, _ string) int {
		if verb == http.MethodPatch {
			return http.StatusNotFound
		}
		return 0
	}
	clear(s.objects)
	s.mu.Unlock()
	e.Event(aPod, "Warning", reasonPublishFailed, "why")
	s.eventually("the event, again", func() bool { return len(s.reasons()) == 1 })
	if got := s.writes(); len(got) != 3 {
		t.Errorf("writes: %q, want to create, to count, and to create", got)
	}
}

func TestEventsWaitForTheAPIServerAndWhatIsTooMuchIsCounted(t *testing.T) {
	log := captureLog(t)
	s := newStage(t)
	var away atomic.Bool
	away.Store(true)
	s.refuse = func(string, string) int {
		if away.Load() {
			return http.StatusServiceUnavailable
		}
		return 0
	}
	e := s.events()
	e.Event(aPod, "Warning", reasonPublishFailed, "first")
	s.eventually("an attempt", func() bool { return len(s.writes()) > 0 })
	for i := range eventBacklog + 7 {
		e.Event(provider.Pod{Namespace: "ns", Name: "p", UID: fmt.Sprint(i)}, "Warning", reasonStale, "why")
	}
	away.Store(false)
	s.eventually("what had waited", func() bool { return len(s.reasons()) == 1+eventBacklog })
	if got := log.lines("Events were dropped"); len(got) != 1 || !strings.Contains(got[0], "count=7") {
		t.Errorf("log: %q, want that 7 were dropped", got)
	}
	if got := log.lines("Event cannot be sent"); len(got) != 1 {
		t.Errorf("log: %q, want one line", got)
	}
}

func TestAnEventThatIsRefusedHoldsUpNoOther(t *testing.T) {
	log := captureLog(t)
	s := newStage(t)
	s.refuse = func(_, path string) int {
		if strings.Contains(path, "/namespaces/closed/") {
			return http.StatusForbidden
		}
		return 0
	}
	e := s.events()
	for i := range 3 {
		e.Event(provider.Pod{Namespace: "closed", Name: "p", UID: fmt.Sprint(i)}, "Warning", reasonPublishFailed, "why")
	}
	e.Event(aPod, "Warning", reasonPublishFailed, "why")
	s.eventually("the event of another pod", func() bool { return len(s.reasons()) == 1 })
	if got := log.lines("Event was refused"); len(got) != 1 || !strings.Contains(got[0], "check the ClusterRole") {
		t.Errorf("log: %q, want one line that says what to do", got)
	}
}

func TestStaleIsSaidOnceForEachReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{fakeAPI: &fakeAPI{t: t}}
		e := NewEvents(nil, "n", nil)
		for _, step := range []struct {
			name  string
			after time.Duration
			cause error
			says  bool
		}{
			{"it becomes stale", 0, provider.ErrUnavailable, true},
			{"it still is", time.Hour, provider.ErrUnavailable, false},
			{"for another reason", time.Minute, provider.ErrDenied, true},
			{"for the first one again, soon", staleGap - time.Second, provider.ErrUnavailable, false},
			{"for the first one, still", 2 * time.Second, provider.ErrUnavailable, true},
		} {
			time.Sleep(step.after)
			e.Ended(s.stale(aVolume("1"), step.cause))
			if got := e.said(); (len(got) == 1) != step.says {
				t.Errorf("%s: said %q", step.name, got)
			}
		}
	})
}

func TestAVolumeThatCannotBePublishedAsAskedIsStillTheSame(t *testing.T) {
	s := &stage{fakeAPI: &fakeAPI{t: t}}
	rec := aVolume("1")
	e := NewEvents(nil, "n", []volume.Record{rec})
	e.Ended(Turn{Volume: "1", Class: rec.Class, Pod: rec.Pod, Err: publish.ErrConflict})
	rec.Held.Versions = provider.Versions{"a": "2", "b": "1"}
	e.Ended(s.publish(rec, publish.Rotated))
	if got := e.said(); len(got) != 2 || !strings.HasSuffix(got[1], "; changed: a") {
		t.Errorf("said %q, want which object changed", got)
	}
}

func TestMessagesDoNotCommandATerminal(t *testing.T) {
	if got := oneLine("\x1b]0;title\a is \u009b31mred"); got != "?]0;title? is ?31mred" {
		t.Errorf("oneLine = %q", got)
	}
}

func TestARefreshThatDidNotGetItsTurnSaysNothing(t *testing.T) {
	h := &hearer{}
	p := Observe(&teller{publish.Result{}, fmt.Errorf("waiting for another call to end: %w", context.DeadlineExceeded)}, &volume.Memory{}, h)
	_, _ = p.Refresh(t.Context(), "1")
	if len(h.turns) != 0 {
		t.Errorf("heard of %v", h.turns)
	}
}
