package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// said takes what waits to be sent: reason and message of each event.
func (e *Events) said() (all []string) {
	for {
		select {
		case ev := <-e.backlog:
			all = append(all, ev.reason+": "+ev.message)
		default:
			return all
		}
	}
}

func TestAPodHearsWhatBecomesOfItsVolume(t *testing.T) {
	away := fmt.Errorf("the store\nis away: %w", provider.ErrUnavailable)
	synctest.Test(t, func(t *testing.T) {
		s := &stage{}
		s.fakeAPI = &fakeAPI{t: t}
		e := NewEvents(nil, "n", nil)
		rec := aVolume("1")
		since := time.Now().UTC().Format(time.RFC3339)
		for _, step := range []struct {
			name string
			turn func() Turn
			want []string
		}{
			{"a publish fails", func() Turn { return Turn{Volume: "1", Class: rec.Class, Pod: rec.Pod, Err: away} },
				[]string{"PublishFailed: class ns/c: the store is away: unavailable"}},
			{"it fails again", func() Turn { return Turn{Volume: "1", Class: rec.Class, Pod: rec.Pod, Err: away} }, nil},
			{"it fails with an ID of the request", func() Turn {
				return Turn{Volume: "1", Class: rec.Class, Pod: rec.Pod, Err: errors.New("403 (request 1a-2b): denied")}
			},
				[]string{"PublishFailed: class ns/c: 403 (request 1a-2b): denied"}},
			{"it fails again, in another request", func() Turn {
				return Turn{Volume: "1", Class: rec.Class, Pod: rec.Pod, Err: errors.New("403 (request 3c-4d): denied")}
			}, nil},
			{"it fails otherwise", func() Turn { return Turn{Volume: "1", Class: rec.Class, Pod: rec.Pod, Err: provider.ErrDenied} },
				[]string{"PublishFailed: class ns/c: denied"}},
			{"it succeeds", func() Turn { return s.publish(rec, publish.Created) }, nil},
			{"nothing is due", func() Turn { return s.publish(rec, publish.NotDue) }, nil},
			{"nothing changed", func() Turn { return s.publish(rec, publish.Unchanged) }, nil},
			{"an object changes", func() Turn {
				rec.Held.Versions = provider.Versions{"a": "2", "b": "1", "c": "1"}
				return s.publish(rec, publish.Rotated)
			}, []string{"MountRotationComplete: class ns/c: the pod has new files; changed: a, c"}},
			{"a refresh fails", func() Turn { return s.stale(rec, away) },
				[]string{"MountRotationFailed: class ns/c: the pod keeps the files that it has; stale since " + since + " (Unavailable): the store is away: unavailable"}},
			{"it fails again soon", func() Turn { return s.stale(rec, away) }, nil},
			{"it recovers, with news", func() Turn {
				rec.Held.Versions = provider.Versions{"a": "2", "b": "1"}
				return s.publish(rec, publish.Rotated)
			}, []string{"MountRotationRecovered: class ns/c: the files are up to date again", "MountRotationComplete: class ns/c: the pod has new files; changed: c"}},
		} {
			e.Ended(step.turn())
			if diff := cmp.Diff(step.want, e.said()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", step.name, diff)
			}
		}
		e.Gone("1")
		if len(e.told) != 0 {
			t.Errorf("a volume that is gone is remembered: %v", e.told)
		}
	})
}

func TestStalenessFromBeforeARestartIsNotSaidAgainAtOnce(t *testing.T) {
	s := &stage{fakeAPI: &fakeAPI{t: t}}
	turn := s.stale(aVolume("1"), provider.ErrDenied)
	e := NewEvents(nil, "n", []volume.Record{turn.Result.Record})
	e.Ended(turn)
	if got := e.said(); got != nil {
		t.Errorf("said %q", got)
	}
	e.Ended(s.publish(aVolume("1"), publish.Unchanged))
	if got := e.said(); len(got) != 1 || !strings.HasPrefix(got[0], reasonRecovered) {
		t.Errorf("said %q, want that it recovered", got)
	}
}

func TestMessagesHaveALimit(t *testing.T) {
	versions := provider.Versions{}
	for i := range 50 {
		versions[fmt.Sprintf("object-%02d", i)] = "1"
	}
	if got := changes(nil, versions); !strings.HasSuffix(got, "object-09 and 40 more") {
		t.Errorf("changes = %q", got)
	}
	for text, want := range map[string]string{
		"one\n\ttwo  three": "one two three",
		"bad \xff byte":     "bad ? byte",
		"":                  "",
	} {
		if got := oneLine(text); got != want {
			t.Errorf("oneLine(%q) = %q, want %q", text, got, want)
		}
	}
	if got := oneLine(strings.Repeat("ü", 2000)); len(got) > maxMessage || !strings.HasSuffix(got, "ü...") {
		t.Errorf("a long text becomes %d bytes that end in %q", len(got), got[len(got)-6:])
	}
}

func TestEventsNeverBlock(t *testing.T) {
	e := NewEvents(nil, "n", nil)
	for i := range 2 * eventBacklog {
		e.Event(provider.Pod{Name: "p"}, "Warning", reasonPublishFailed, fmt.Sprint(i))
	}
	if got := len(e.said()); got != eventBacklog {
		t.Errorf("%d events wait, want %d", got, eventBacklog)
	}
}

func TestEventsReachTheAPIServerOnceAndAreCounted(t *testing.T) {
	s := newStage(t)
	e := NewEvents(s.client, "node-1", nil)
	s.run(func(done <-chan struct{}) error {
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-done; cancel() }()
		return e.Run(ctx)
	})
	pod := provider.Pod{Namespace: "ns", Name: "p-1", UID: "u-1"}
	e.Event(pod, "Warning", reasonPublishFailed, "why")
	s.eventually("the event", func() bool { return len(s.requests("POST")) == 1 })
	e.Event(pod, "Warning", reasonPublishFailed, "why")
	s.eventually("its count", func() bool { return len(s.requests("PATCH")) == 1 })
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, o := range s.objects {
		want := object{"apiVersion": "v1", "kind": "Pod", "namespace": "ns", "name": "p-1", "uid": "u-1"}
		if diff := cmp.Diff(want, o["involvedObject"]); diff != "" || !strings.HasPrefix(at, events) {
			t.Errorf("%s involves (-want +got):\n%s", at, diff)
		}
		if o["count"] != float64(2) || o["reason"] != reasonPublishFailed || field(o, "source", "component") != component || field(o, "source", "host") != "node-1" {
			t.Errorf("the event: %v", o)
		}
	}
}

// teller is a Publisher that answers as told.
type teller struct {
	res publish.Result
	err error
}

func (p *teller) Publish(context.Context, volume.Volume) (publish.Result, error) {
	return p.res, p.err
}
func (p *teller) Refresh(context.Context, volume.ID) (publish.Result, error) { return p.res, p.err }
func (p *teller) Unpublish(context.Context, volume.ID, string) error         { return p.err }

// hearer notes what it hears.
type hearer struct {
	turns []Turn
	gone  []volume.ID
}

func (h *hearer) Ended(t Turn)      { h.turns = append(h.turns, t) }
func (h *hearer) Gone(id volume.ID) { h.gone = append(h.gone, id) }

func TestListenersHearWhatSaysSomething(t *testing.T) {
	rec := aVolume("1")
	for _, c := range []struct {
		name        string
		err         error
		turns, gone int // of a publish, a refresh and an unpublish
	}{
		{"success", nil, 2, 1},
		{"failure", provider.ErrDenied, 2, 0},
		{"a stale volume", &publish.StaleError{Err: provider.ErrDenied}, 2, 0},
		{"kubelet gave up", context.Canceled, 0, 0},
		{"the pod is going", fmt.Errorf("fetch: %w", publish.ErrUnpublished), 0, 0},
		{"the volume is no longer there", volume.ErrNotFound, 1, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &hearer{}
			var volumes volume.Memory
			if err := volumes.Put(rec); err != nil {
				t.Fatal(err)
			}
			p := Observe(&teller{publish.Result{Record: rec}, c.err}, &volumes, h)
			_, err1 := p.Publish(t.Context(), volume.Volume{ID: "1", Class: rec.Class, Pod: rec.Pod})
			_, err2 := p.Refresh(t.Context(), "1")
			err3 := p.Unpublish(t.Context(), "1", rec.Target)
			for _, err := range []error{err1, err2, err3} {
				if !errors.Is(err, c.err) {
					t.Errorf("the observer answers %v, want %v", err, c.err)
				}
			}
			if len(h.turns) != c.turns || len(h.gone) != c.gone {
				t.Errorf("heard %d turns and %v gone, want %d and %d", len(h.turns), h.gone, c.turns, c.gone)
			}
			for _, turn := range h.turns {
				if turn.Volume != "1" || turn.Class != rec.Class || turn.Pod != rec.Pod {
					t.Errorf("heard of %v", turn)
				}
			}
		})
	}
}

func TestTheLastThingHeardOfAVolumeIsThatItIsGone(t *testing.T) {
	h := &hearer{}
	var volumes volume.Memory // the volume was unpublished by the time the call returns
	_, err := Observe(&teller{publish.Result{Record: aVolume("1")}, nil}, &volumes, h).Publish(t.Context(), volume.Volume{ID: "1"})
	if err != nil || len(h.turns) != 1 || len(h.gone) != 1 {
		t.Errorf("heard %d turns and %v gone, %v", len(h.turns), h.gone, err)
	}
}

func TestTheStartupTaintGoesOnceTheDriverIsReady(t *testing.T) {
	s := newStage(t)
	s.put(nodes+"n", object{"apiVersion": "v1", "kind": "Node", "spec": object{"taints": []object{
		{"key": "other", "effect": "NoSchedule"}, {"key": startupTaint, "effect": "NoExecute"}, {"key": startupTaint, "effect": "NoSchedule"},
	}}})
	ready := make(chan error, 3)
	ready <- errors.New("not yet")
	ready <- nil
	ready <- nil
	s.mu.Lock()
	conflicts := 1
	s.refuse = func(verb, _ string) int {
		if verb == "PATCH" && conflicts > 0 { // somebody else was faster
			conflicts--
			return 422
		}
		return 0
	}
	s.mu.Unlock()
	if err := RemoveStartupTaint(t.Context(), s.client, "n", func(context.Context) error { return <-ready }); err != nil {
		t.Fatal(err)
	}
	want := []any{object{"key": "other", "effect": "NoSchedule"}}
	if diff := cmp.Diff(want, field(s.get(nodes+"n"), "spec", "taints")); diff != "" {
		t.Errorf("taints (-want +got):\n%s", diff)
	}
	if got := len(s.requests("GET")); got != 2 {
		t.Errorf("the node was read %d times, want 2: not before the driver was ready", got)
	}
	if err := RemoveStartupTaint(t.Context(), s.client, "n", func(context.Context) error { return nil }); err != nil || len(s.requests("PATCH")) != 2 {
		t.Errorf("without the taint: %v, %q", err, s.requests("PATCH"))
	}
}
