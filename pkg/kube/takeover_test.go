package kube

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

const usualName = statuses + "p-1-ns-c"

// ofUpstream is an object as the upstream driver writes it.
func ofUpstream(target, uid string, versions ...object) object {
	o := aStatus("p-1", "c", target, uid)
	o["metadata"].(object)["labels"] = object{nodeLabel: "n"}
	o["status"].(object)["objects"] = versions
	return o
}

// targets returns the name of the status object of each target.
func (f *fakeAPI) targets() map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()
	found := make(map[string]string)
	for at, o := range f.objects {
		if target, ok := field(o, "status", "targetPath").(string); ok {
			found[target] = strings.TrimPrefix(at, statuses)
		}
	}
	return found
}

func TestAnObjectThatIsTakenOverKeepsNothingOfWhatItSaid(t *testing.T) {
	earlier := ofUpstream("/earlier", "u-0", object{"id": "x", "version": "9"})
	earlier["status"].(object)["secrets"] = []string{"gone"}
	earlier["status"].(object)["classGeneration"] = 7
	whole := object{
		"podName": "p-1", "secretProviderClassName": "c", "targetPath": aVolume("1").Target, "mounted": true,
		"objects": []any{}, "secrets": []any{}, "classGeneration": float64(0),
	}
	for name, old := range map[string]object{
		"of an earlier pod of the name": earlier,
		"of the pod, by another driver": ofUpstream(aVolume("1").Target, "u-1", object{"id": "x", "version": "9"}),
		"without labels and owners":     {"apiVersion": groupVersion.String(), "kind": "SecretProviderClassPodStatus", "status": object{"podName": "p-1", "secretProviderClassName": "c", "targetPath": "/earlier"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, api := newApplyStage(t)
			api.wroteAs("secrets-store-csi-driver", usualName, old)
			st := s.statuses("n")
			rec := aVolume("1")
			rec.Held.Versions = nil
			st.Ended(s.publish(rec, publish.Created))
			s.eventually("the status", func() bool { return conditionsOf(s.get(usualName)) != "" })
			ours := cmpopts.IgnoreMapEntries(func(key string, _ any) bool { return key == "conditions" || key == "lastRefreshTime" })
			if diff := cmp.Diff(whole, field(s.get(usualName), "status"), ours); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
			if labels := field(s.get(usualName), "metadata", "labels"); !cmp.Equal(labels, object{nodeLabel: "n"}) {
				t.Errorf("labels: %v", labels)
			}
			if got := fmt.Sprint(field(s.get(usualName), "metadata", "ownerReferences")); !strings.Contains(got, "uid:u-1") {
				t.Errorf("owners: %s", got)
			}
		})
	}
}

func TestWhatWasTakenOverIsWrittenAsAnyOther(t *testing.T) {
	s, api := newApplyStage(t)
	api.wroteAs("secrets-store-csi-driver", usualName, ofUpstream(aVolume("1").Target, "u-1", object{"id": "a", "version": "1"}, object{"id": "b", "version": "1"}))
	st := s.statuses("n")
	rec := aVolume("1")
	for i := range 4 {
		rec.Held.Versions = provider.Versions{"a": fmt.Sprint(i), "b": "1"}
		st.Ended(s.publish(rec, publish.Rotated))
		s.eventually("the new version", func() bool {
			list, _ := field(s.get(usualName), "status", "objects").([]any)
			return len(list) == 2 && cmp.Equal(list[0], object{"id": "a", "version": fmt.Sprint(i)})
		})
	}
	if forced := slices.DeleteFunc(slices.Clone(api.applied), func(a applied) bool { return !a.force }); len(forced) != 1 {
		t.Errorf("%d writes by force, want one: that of the takeover", len(forced))
	}
}

func TestTwoVolumesOfAClassInOnePodHaveAStatusEach(t *testing.T) {
	s, api := newApplyStage(t)
	st := s.statuses("n")
	one, two := aVolume("1"), aVolume("1")
	two.ID, two.Target = "2", "/second"
	for i := range 3 {
		for _, rec := range []*volume.Record{&one, &two} {
			rec.Held.Versions = provider.Versions{"a": fmt.Sprint(i)}
			st.Ended(s.publish(*rec, publish.Rotated))
		}
		s.eventually("both statuses", func() bool {
			for _, target := range []string{one.Target, two.Target} {
				list, _ := field(s.get(statuses+s.targets()[target]), "status", "objects").([]any)
				if len(list) != 1 || !cmp.Equal(list[0], object{"id": "a", "version": fmt.Sprint(i)}) {
					return false
				}
			}
			return true
		})
	}
	names := s.targets()
	if len(names) != 2 || (names[one.Target] == "p-1-ns-c") == (names[two.Target] == "p-1-ns-c") {
		t.Errorf("names by target: %v, want the usual one and another", names)
	}
	if slices.ContainsFunc(api.applied, func(a applied) bool { return a.force }) {
		t.Error("one of them wrote by force")
	}
}

func TestOfTwoPodsOfOneNameTheLaterHasTheObject(t *testing.T) {
	earlier, later := newVolumeOf("u-old", 0), newVolumeOf("u-new", time.Hour)
	s, _ := newApplyStage(t)
	there, here := &stage{fakeAPI: s.fakeAPI}, s // one API server, two nodes
	stThere, stHere := there.statuses("there"), here.statuses("here")
	stThere.Ended(there.publish(earlier, publish.Created))
	s.eventually("the status of the earlier pod", func() bool { return s.targets()[earlier.Target] == "p-1-ns-c" })
	stHere.Ended(here.publish(later, publish.Created))
	s.eventually("the status of the later pod", func() bool { return s.targets()[later.Target] == "p-1-ns-c" })
	s.collect(usualName, "u-old")

	for i := range 3 { // the earlier pod is still on its node, which did not hear that it is gone
		earlier.Held.Versions = provider.Versions{"a": fmt.Sprint("earlier", i)}
		stThere.Ended(there.publish(earlier, publish.Rotated))
		s.eventually("the earlier pod's status elsewhere", func() bool {
			return strings.Contains(fmt.Sprint(field(s.get(statuses+s.targets()[earlier.Target]), "status", "objects")), fmt.Sprint("earlier", i))
		})
	}
	if names := s.targets(); names[later.Target] != "p-1-ns-c" || names[earlier.Target] == "p-1-ns-c" {
		t.Errorf("names by target: %v, want that the later pod keeps the usual one", names)
	}
}

// collect removes an owner that is gone from an object, as Kubernetes does.
func (f *fakeAPI) collect(at, uid string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	meta := f.objects[at]["metadata"].(object)
	meta["ownerReferences"] = slices.DeleteFunc(meta["ownerReferences"].([]any), func(o any) bool { return field(o.(object), "uid") == uid })
	f.store(at, f.objects[at])
}

// newVolumeOf returns a volume of a pod named p-1, published after a while.
func newVolumeOf(uid string, after time.Duration) volume.Record {
	rec := aVolume("1")
	rec.ID, rec.Pod.UID, rec.Target = volume.ID("csi-"+uid), uid, "/"+uid
	rec.Published = rec.Published.Add(after)
	return rec
}

func TestARestartTakesFromTheListOnlyWhatIsTheVolumes(t *testing.T) {
	written := func(at, target, uid string) (string, object) {
		o := aStatus("p-1", "c", target, uid)
		o["metadata"].(object)["labels"] = object{nodeLabel: "n"}
		status := o["status"].(object)
		status["objects"] = []object{{"id": "a", "version": "1"}, {"id": "b", "version": "1"}}
		status["conditions"] = []object{
			{"type": "Ready", "status": "True", "reason": "Published", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
			{"type": "Stale", "status": "False", "reason": "Fresh", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
			{"type": "Foreign", "status": "True", "reason": "Any", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"},
		}
		return at, o
	}
	target := aVolume("1").Target
	for _, c := range []struct {
		name            string
		at, target, uid string
		writes          int
	}{
		{"it is as it should be", usualName, target, "u-1", 0},
		{"somebody copied it to another name", statuses + "copy", target, "u-1", 1},
		{"it is of an earlier pod", usualName, target, "u-0", 2}, // without force, and by force
		{"it is of an earlier volume", usualName, "/earlier", "u-0", 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, api := newApplyStage(t)
			at, o := written(c.at, c.target, c.uid)
			api.wroteAs("keymount-earlier", at, o)
			s.publish(aVolume("1"), publish.Created)
			st := s.statuses("n")
			s.eventually("it is known", func() bool {
				st.mu.Lock()
				defer st.mu.Unlock()
				return st.known["1"] != nil && st.known["1"].name != ""
			})
			s.idle(st)
			if got := s.writes(); len(got) != c.writes {
				t.Errorf("writes: %q, want %d", got, c.writes)
			}
			st.mu.Lock()
			defer st.mu.Unlock()
			if got := st.known["1"].applied.Conditions; len(got) != 2 {
				t.Errorf("conditions that are the driver's to write: %v", got)
			}
		})
	}
}

func TestARestartKnowsBothVolumesOfAClassInOnePod(t *testing.T) {
	s, _ := newApplyStage(t)
	st := s.statuses("n")
	for _, id := range []volume.ID{"1", "2"} {
		rec := aVolume("1")
		rec.ID, rec.Target = id, "/"+string(id)
		st.Ended(s.publish(rec, publish.Created))
	}
	s.eventually("both statuses", func() bool { return len(s.targets()) == 2 })
	s.idle(st)
	s.mu.Lock()
	s.calls = nil
	s.mu.Unlock()
	again := s.statuses("n")
	s.eventually("both are known", func() bool {
		again.mu.Lock()
		defer again.mu.Unlock()
		return len(again.known) == 2
	})
	again.Ended(s.stale(aVolume("3"), provider.ErrDenied)) // which comes after them
	s.eventually("the status of a third", func() bool { return s.targets()[aVolume("3").Target] != "" })
	if got := s.requests(""); len(got) != 2 {
		t.Errorf("requests: %q, want one list and one write", got)
	}
}

func TestSecretsAreRememberedAcrossARestart(t *testing.T) {
	s, api := newApplyStage(t)
	o := ofUpstream(aVolume("1").Target, "u-1")
	o["status"].(object)["secrets"] = []string{"dropped", "kept"}
	api.wroteAs("keymount-earlier", usualName, o)
	s.publish(aVolume("1"), publish.Created)
	st := NewStatuses(s.client, &s.volumes, "n")
	st.Synced("1", []string{"kept"}) // before the list, which is older
	recalled := make(chan []string, 1)
	s.run(func(done <-chan struct{}) error {
		return st.Run(until(done), func(_ volume.Record, secrets []string) { recalled <- secrets })
	})
	if got := <-recalled; !slices.Equal(got, []string{"dropped", "kept"}) {
		t.Errorf("recalled: %q", got)
	}
	s.eventually("the status", func() bool {
		return cmp.Equal(field(s.get(usualName), "status", "secrets"), []any{"kept"})
	})
}

func TestAStatusNamesTheGenerationOfItsClassAndNoOther(t *testing.T) {
	s, _ := newApplyStage(t)
	st := s.statuses("n")
	turn := s.publish(aVolume("1"), publish.Created)
	turn.Result.Class = &class.Class{Generation: 3}
	st.Ended(turn)
	s.eventually("the status", func() bool { return s.get(usualName) != nil })
	if got := field(s.get(usualName), "status", "classGeneration"); got != float64(3) {
		t.Errorf("classGeneration = %v, want 3", got)
	}
	// kubectl wait compares it with the generation of the status object.
	if got := fmt.Sprint(field(s.get(usualName), "status", "conditions")); strings.Contains(got, "observedGeneration") {
		t.Errorf("conditions: %s", got)
	}
}

func TestAMessageAloneIsWrittenAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := aVolume("1")
		rec.Stale = volume.Staleness{Since: time.Now(), Failures: 1, Reason: "Unavailable", Message: "request 1"}
		st := &status{name: "n", written: time.Now()}
		st.applied = st.next(rec)
		rec.Stale.Message = "request 2"
		for _, want := range []time.Duration{messageGap, messageGap - time.Minute} {
			if got := st.wait(st.next(rec)); got != want {
				t.Errorf("wait = %v, want %v", got, want)
			}
			time.Sleep(time.Minute)
		}
		time.Sleep(messageGap)
		if got := st.wait(st.next(rec)); got != 0 {
			t.Errorf("after a while, wait = %v", got)
		}
	})
}

func TestAVolumeThatIsPublishedAgainIsNotForgottenByALateCall(t *testing.T) {
	s, _ := newApplyStage(t)
	st := s.statuses("n")
	turn := s.publish(aVolume("1"), publish.Created)
	st.Ended(turn)
	s.eventually("the status", func() bool { return s.get(usualName) != nil })
	s.idle(st)
	st.Gone("1") // of the unpublish before
	st.Ended(s.publish(aVolume("1"), publish.NotDue))
	s.idle(st)
	if got := s.writes(); len(got) != 1 {
		t.Errorf("writes: %q, want one", got)
	}
}

func TestStatusesCostNothingBeforeTheyRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
		s := &stage{fakeAPI: &fakeAPI{t: t}}
		st := NewStatuses(nil, &s.volumes, "n")
		st.Ended(s.publish(aVolume("1"), publish.Created))
		st.Synced("1", []string{"copy"})
		st.Gone("1")
	})
}
