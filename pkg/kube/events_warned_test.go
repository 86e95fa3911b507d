package kube

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// warns returns the end of a refresh that found nothing new, with warnings.
func (s *stage) warns(outcome publish.Outcome, messages ...string) Turn {
	s.t.Helper()
	turn := s.publish(aVolume("1"), outcome)
	turn.Result.Bundle = &provider.Bundle{}
	for _, message := range messages {
		turn.Result.Bundle.Warnings = append(turn.Result.Bundle.Warnings, provider.Warning{Reason: provider.Expired, Message: message})
	}
	return turn
}

func TestAPodHearsOnceWhatHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &stage{fakeAPI: &fakeAPI{t: t}}
		e := NewEvents(nil, "n", nil)
		said := func(messages string) []string { return []string{"SecretExpired: class ns/c: " + messages} }
		for _, step := range []struct {
			name  string
			after time.Duration
			turn  Turn
			want  []string
		}{
			{"nothing has", 0, s.warns(publish.Created), nil},
			{"two have", time.Minute, s.warns(publish.Unchanged, "b", "a"), said("a; b")},
			{"they still have, in any order", time.Hour, s.warns(publish.Rotated, "a", "b", "a"), []string{"MountRotationComplete: class ns/c: the pod has new files"}},
			{"nobody was asked", time.Hour, s.publish(aVolume("1"), publish.NotDue), nil},
			{"the refresh fails", time.Hour, s.stale(aVolume("1"), provider.ErrInvalid), []string{"MountRotationFailed: class ns/c: the pod keeps the files that it has; stale since " + time.Now().UTC().Format(time.RFC3339) + " (Invalid): invalid"}},
			{"it recovers", time.Hour, s.warns(publish.Unchanged, "a", "b"), []string{"MountRotationRecovered: class ns/c: the files are up to date again"}},
			{"another one has", time.Hour, s.warns(publish.Unchanged, "a", "b", "c"), said("a; b; c")},
			{"and one more soon after", time.Minute, s.warns(publish.Unchanged, "a", "b", "c", "d"), nil},
			{"which is told later", eventGap, s.warns(publish.Unchanged, "a", "b", "c", "d"), said("a; b; c; d")},
			{"none has any more", time.Minute, s.warns(publish.Unchanged), nil},
			{"one has again, at once", time.Minute, s.warns(publish.Unchanged, "a"), nil},
			{"which is told later, too", eventGap, s.warns(publish.Unchanged, "a"), said("a")},
		} {
			time.Sleep(step.after)
			e.Ended(step.turn)
			if diff := cmp.Diff(step.want, e.said()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", step.name, diff)
			}
		}
	})
}

func TestAfterARestartAPodHearsOnceMoreWhatHasExpired(t *testing.T) {
	s := &stage{fakeAPI: &fakeAPI{t: t}}
	e := NewEvents(nil, "n", []volume.Record{aVolume("1")})
	for range 3 {
		e.Ended(s.warns(publish.Unchanged, "a"))
	}
	if diff := cmp.Diff([]string{"SecretExpired: class ns/c: a"}, e.said()); diff != "" {
		t.Errorf("said (-want +got):\n%s", diff)
	}
}

func TestWhatHasExpiredIsSaidInOneShortLine(t *testing.T) {
	s := &stage{fakeAPI: &fakeAPI{t: t}}
	e := NewEvents(nil, "n", nil)
	e.Ended(s.warns(publish.Created, strings.Repeat("a", 500), strings.Repeat("b", 500), strings.Repeat("c", 500)))
	if got := e.said(); len(got) != 1 || len(got[0]) != len("SecretExpired: ")+maxMessage || !strings.HasSuffix(got[0], "...") {
		t.Errorf("said %q", got)
	}
}
