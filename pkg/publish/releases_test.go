package publish_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// leasedWorld is a world in a bubble, with a published volume that has a lease.
func leasedWorld(t *testing.T, story func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.leases()
		w.mustPublish()
		w.mustWork()
		w.mustLease(1)
		story(t, w)
	})
}

// mustUnpublishAtOnce unpublishes without waiting for anybody.
func (w *world) mustUnpublishAtOnce() {
	w.t.Helper()
	began := time.Now()
	if err := w.unpublish(); err != nil {
		w.t.Fatal(err)
	}
	if took := time.Since(began); took != 0 {
		w.t.Errorf("unpublish took %v", took)
	}
	w.mustBeGone()
}

func TestALeaseIsGivenBackWhenItsStoreIsBack(t *testing.T) {
	for name, breakDown := range map[string]func(*world){
		"it is out of order":          func(w *world) { w.store.Break() },
		"it hangs":                    func(w *world) { w.store.Hang() },
		"its provider is not there":   breaking(stepLookup, errFault),
		"its provider is not running": breaking(stepRelease, provider.ErrUnavailable),
		"its provider has a bug":      breaking(stepRelease, errFault),
	} {
		for restarts, restart := range map[string]func(*world){
			"":                    func(*world) {},
			", after a new start": (*world).restart,
		} {
			t.Run(name+restarts, func(t *testing.T) {
				leasedWorld(t, func(t *testing.T, w *world) {
					breakDown(w)
					w.mustUnpublishAtOnce()
					time.Sleep(time.Hour)
					if got := w.store.Leases(); got != 1 {
						t.Fatalf("%d leases at a store that does not answer, want 1", got)
					}
					if got := w.store.Releases(); got > 30 {
						t.Errorf("%d attempts in an hour, want a backoff up to 5m", got)
					}
					w.repair()
					w.store.Repair()
					w.store.Resume()
					restart(w)
					time.Sleep(6 * time.Minute)
					w.mustLease(0)
					w.mustTellOf(nil)
				})
			})
		}
	}
}

func TestARefusalToEndALeaseIsFinal(t *testing.T) {
	for _, refusal := range []error{provider.ErrInvalid, provider.ErrNotFound, provider.ErrDenied, errors.ErrUnsupported} {
		t.Run(refusal.Error(), func(t *testing.T) {
			leasedWorld(t, func(t *testing.T, w *world) {
				w.breaks(stepRelease, fmt.Errorf("the store: %w", refusal))
				w.mustUnpublishAtOnce()
				time.Sleep(time.Second)
				w.repair()
				time.Sleep(time.Hour)
				w.mustLease(1)
				w.mustTellOf(refusal)
			})
		})
	}
}

// fetchOnly is a provider that cannot release.
type fetchOnly struct{ store *providertest.Fake }

func (f fetchOnly) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	return f.store.Fetch(ctx, req)
}

func TestAProviderThatLeasesAndDoesNotReleaseIsToldOf(t *testing.T) {
	leasedWorld(t, func(t *testing.T, w *world) {
		w.config.Providers = func(string) (provider.Provider, error) { return fetchOnly{w.store}, nil }
		w.restart()
		w.mustUnpublishAtOnce()
		time.Sleep(time.Second)
		w.mustLease(1)
		w.mustTellOf(errors.ErrUnsupported)
	})
}

func TestALeaseThatHasEndedIsForgotten(t *testing.T) {
	leasedWorld(t, func(t *testing.T, w *world) {
		w.store.Break()
		w.mustUnpublishAtOnce()
		time.Sleep(24*time.Hour + time.Minute)
		w.mustLease(0)
		attempts := w.store.Releases()
		time.Sleep(time.Hour)
		if got := w.store.Releases(); got != attempts {
			t.Errorf("%d attempts after the end", got-attempts)
		}
		w.mustTellOf(provider.ErrUnavailable)
	})
}

// hold leases so many credentials for nobody.
func hold(t *testing.T, store *providertest.Fake, n int) []provider.Lease {
	t.Helper()
	var leases []provider.Lease
	for range n {
		bundle, err := store.Fetch(t.Context(), &provider.Request{Parameters: map[string]string{providertest.ParameterLease: "role"}})
		if err != nil {
			t.Fatal(err)
		}
		leases = append(leases, bundle.Lease)
	}
	return leases
}

func TestAStoreThatHangsDoesNotHoldUpTheLeasesOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stores := map[string]*providertest.Fake{"hangs": {}, "works": {}}
		s := publish.New(publish.Config{
			Volumes:   &volume.Memory{},
			Providers: func(name string) (provider.Provider, error) { return stores[name], nil },
		})
		defer s.Close()
		giveBack := func(name string, leases []provider.Lease) {
			for _, lease := range leases {
				if err := s.GiveBack(name, lease); err != nil {
					t.Error(err)
				}
			}
		}
		hanging, working := hold(t, stores["hangs"], 50), hold(t, stores["works"], 50)
		stores["hangs"].Hang()
		giveBack("hangs", hanging)
		giveBack("works", working)
		synctest.Wait()
		if got := stores["works"].Leases(); got != 0 {
			t.Errorf("%d leases are left at the store that works", got)
		}
		if got := stores["hangs"].Releases(); got != 4 {
			t.Errorf("%d attempts at the same time, want 4", got)
		}
		stores["hangs"].Resume()
		synctest.Wait()
		if got := stores["hangs"].Leases(); got != 0 {
			t.Errorf("%d leases are left at the store that hung", got)
		}
	})
}

func TestCloseIsBounded(t *testing.T) {
	leasedWorld(t, func(t *testing.T, w *world) {
		deaf := make(chan struct{})
		w.during(stepRelease, func() { <-deaf })
		w.mustUnpublishAtOnce()
		synctest.Wait()
		began := time.Now()
		w.service.Close()
		if took := time.Since(began); took != 10*time.Second {
			t.Errorf("Close took %v, want 10s", took)
		}
		if got := len(w.notes.List()); got != 1 {
			t.Errorf("%d notes are left for the next driver, want 1", got)
		}
		close(deaf)
		w.restart()
		synctest.Wait()
		w.mustLease(0)
	})
}

func TestWhatIsGivenBackAfterCloseIsLeftToTheNextDriver(t *testing.T) {
	leasedWorld(t, func(t *testing.T, w *world) {
		w.service.Close()
		if err := w.service.GiveBack("fake", hold(t, w.store, 1)[0]); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		if got := w.store.Leases(); got != 2 {
			t.Fatalf("%d leases, want 2", got)
		}
		w.restart()
		synctest.Wait()
		w.mustLease(1)
		w.mustWork()
	})
}

// A driver that was killed while it unpublished a volume may have noted its
// lease. Whatever happens to the volume then decides about the lease.
func TestALeaseThatAVolumeHoldsIsNeverGivenBack(t *testing.T) {
	for name, restart := range map[string]func(*world){
		"by the next driver": (*world).restart,
		"by this driver":     (*world).repair,
	} {
		t.Run(name, func(t *testing.T) {
			leasedWorld(t, func(t *testing.T, w *world) {
				w.breaks(stepDelete, errFault)
				check(t, w.unpublish(), errFault)
				restart(w)
				time.Sleep(time.Hour)
				if rec, _ := w.volumes.Get("csi-1"); w.store.Releases() != 0 || rec.Held.Lease.IsZero() {
					t.Fatalf("%d attempts to give back the lease %q of a record", w.store.Releases(), rec.Held.Lease.ID)
				}
				w.mustPublish() // kubelet changed its mind
				synctest.Wait()
				w.mustWork()
				w.mustLease(1)
				w.mustUnpublishAtOnce()
				synctest.Wait()
				w.mustLease(0)
			})
		})
	}
}

func TestALeaseThatCannotBeNotedStaysWithItsVolume(t *testing.T) {
	leasedWorld(t, func(t *testing.T, w *world) {
		w.breaks(stepNote, errFault)
		check(t, w.unpublish(), errFault)
		w.repair()
		w.mustUnpublishAtOnce() // kubelet repeats the call
		synctest.Wait()
		w.mustLease(0)
	})
}

func TestAPublishThatCannotNoteTheLeaseOfAMountThatIsGoneKeepsItsRecord(t *testing.T) {
	leasedWorld(t, func(t *testing.T, w *world) {
		if err := unix.Unmount(w.target, 0); err != nil {
			t.Fatal(err)
		}
		w.breaks(stepNote, errFault)
		_, err := w.publish()
		check(t, err, errFault)
		w.repair()
		w.mustPublish()
		synctest.Wait()
		w.mustWork()
		w.mustLease(1)
	})
}

// replace ends the lease of the volume at the store, so that the next refresh
// gets another one.
func (w *world) replace() {
	w.t.Helper()
	rec, _ := w.volumes.Get("csi-1")
	if err := w.store.Release(w.t.Context(), rec.Held.Lease); err != nil {
		w.t.Fatal(err)
	}
}

// refreshIfDue does what the rotator does.
func (w *world) refreshIfDue() {
	w.t.Helper()
	if rec, ok := w.volumes.Get("csi-1"); !ok || time.Now().Before(rec.Due) {
		return
	}
	if _, err := w.service.Refresh(w.t.Context(), "csi-1"); err != nil {
		w.t.Fatal(err)
	}
}

// A tale is what a driver is killed during.
type tale struct {
	begin  func(*world)
	act    func(*world) error // cut short
	then   func(*world) error // what kubelet and the rotator do afterwards
	lives  bool               // the volume is published in the end
	issues bool               // act gets a lease
}

func tales() map[string]tale {
	publish := func(w *world) error { _, err := w.publish(); return err }
	refresh := func(w *world) error { _, err := w.service.Refresh(w.t.Context(), "csi-1"); return err }
	overdue := func(w *world) { w.mustPublish(); w.makeDue() }
	rotate := func(w *world) error { w.refreshIfDue(); return nil }
	return map[string]tale{
		"publish":                              {func(*world) {}, publish, publish, true, true},
		"renewal":                              {overdue, refresh, rotate, true, false},
		"replacement of a lease":               {func(w *world) { overdue(w); w.replace() }, refresh, rotate, true, true},
		"replacement of a lease that is alive": {func(w *world) { overdue(w); w.breaks(stepFetch, errAnew) }, refresh, rotate, true, true},
		"unpublish":                            {overdue, (*world).unpublish, (*world).unpublish, false, false},
	}
}

func TestAKilledDriverNeitherLosesALeaseNorTakesOneFromAPod(t *testing.T) {
	for name, tale := range tales() {
		t.Run(name, func(t *testing.T) {
			kills := 0
			for tale.survives(t, kills+1) {
				kills++
			}
			if kills < 4 {
				t.Errorf("killed %d times, want once before each step", kills)
			}
		})
	}
}

// survives tells the tale with a driver that is killed before its step of that
// number, and reports whether it had so many.
func (tale tale) survives(t *testing.T, steps int) (killed bool) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.leases()
		tale.begin(w)
		w.kill(steps)
		_ = tale.act(w)
		synctest.Wait()
		at := w.killed
		killed = at != ""
		w.restart()
		synctest.Wait()
		if err := tale.then(w); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if tale.lives {
			w.mustWork()
			w.mustUnpublishAtOnce()
			synctest.Wait()
		}
		unknown := 0 // leases of which nobody knows but the store, which ends them
		if tale.issues && (at == stepReply || at == stepNote) {
			unknown = 1 // the driver has not heard of it, or has not said so yet
		}
		if got := w.store.Leases(); got > unknown+w.replaced {
			t.Errorf("%d leases at the store, want %d", got, unknown)
		}
		if notes := w.notes.List(); len(notes) != 0 {
			t.Errorf("%d notes of leases are left", len(notes))
		}
		if t.Failed() {
			t.Fatalf("killed before step %d, %q", steps, at)
		}
	})
	return killed && !t.Failed()
}

func TestAPodKeepsCredentialsThatWorkWhateverFailsWhileItsLeaseIsReplaced(t *testing.T) {
	for name, inject := range map[string]func(w *world){
		"the lease cannot be noted":      breaking(stepNote, errFault),
		"the lease cannot be remembered": breaking(stepPut, errFault),
		"the mount cannot be opened":     breaking(stepOpen, errFault),
		"the record cannot be stored": func(w *world) {
			w.during(stepOpen, func() { w.breaks(stepPut, errFault) })
		},
		"the mount cannot be looked at after the write": func(w *world) {
			w.during(stepOpen, func() { w.breaks(stepMounted, errFault) })
		},
		"nothing": func(*world) {},
	} {
		t.Run(name, func(t *testing.T) {
			leasedWorld(t, func(t *testing.T, w *world) {
				w.replace()
				w.makeDue()
				inject(w)
				_, _ = w.service.Refresh(t.Context(), "csi-1")
				time.Sleep(10 * time.Second)
				w.repair()
				time.Sleep(time.Minute)
				w.refreshIfDue()
				w.mustWork()
				w.mustLease(1)
			})
		})
	}
}

// A renewal that unpublish cuts short may have made the lease live longer than
// the record says.
func TestAnUnpublishDuringARenewalLosesNoLease(t *testing.T) {
	for name, prepare := range map[string]func(*world){
		"that renews":   func(*world) {},
		"that replaces": (*world).replace,
	} {
		t.Run(name, func(t *testing.T) {
			leasedWorld(t, func(t *testing.T, w *world) {
				time.Sleep(15 * time.Hour)
				prepare(w)
				done := make(chan error)
				w.during(stepReply, func() { // the store has done its part
					go func() { done <- w.unpublish() }()
					synctest.Wait()
				})
				_, err := w.service.Refresh(t.Context(), "csi-1")
				check(t, err, publish.ErrUnpublished)
				w.store.Break()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				w.mustBeGone()
				time.Sleep(12 * time.Hour) // 27 after the publish
				if got := w.store.Leases(); got > 1 {
					t.Fatalf("%d leases, want what the renewal left", got)
				}
				w.store.Repair()
				time.Sleep(6 * time.Minute)
				w.mustLease(0)
			})
		})
	}
}

func TestALeaseIsSavedIfItsStoreComesBackInTime(t *testing.T) {
	leasedWorld(t, func(t *testing.T, w *world) {
		rec, _ := w.volumes.Get("csi-1")
		end := rec.Held.Lease.Expires
		time.Sleep(time.Until(rec.Due))
		w.store.Break()
		for time.Until(end) > 5*time.Second { // as the rotator does
			_, err := w.service.Refresh(t.Context(), "csi-1")
			check(t, err, provider.ErrUnavailable)
			if rec, _ = w.volumes.Get("csi-1"); !rec.Due.Before(end) {
				t.Fatalf("the next attempt comes %v after the end of the lease", rec.Due.Sub(end))
			}
			time.Sleep(time.Until(rec.Due))
		}
		w.store.Repair()
		w.refreshIfDue()
		w.mustWork()
		if now, _ := w.volumes.Get("csi-1"); now.Held.Lease.ID != rec.Held.Lease.ID {
			t.Errorf("the volume holds the lease %q, want %q to go on", now.Held.Lease.ID, rec.Held.Lease.ID)
		}
	})
}

func TestALeaseDoesNotEndWhileItsVolumeWaitsForATokenAfterARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.leases()
		w.store.LeaseFor(2 * time.Minute)
		v := w.volume()
		v.Tokens = provider.Tokens{"vault": {}}
		if _, err := w.service.Publish(t.Context(), v); err != nil {
			t.Fatal(err)
		}
		w.restart()
		before, _ := w.volumes.Get("csi-1")
		for range 2 {
			rec, _ := w.volumes.Get("csi-1")
			time.Sleep(time.Until(rec.Due))
			w.refreshIfDue()
		}
		if after, _ := w.volumes.Get("csi-1"); after.Held.Lease.ID != before.Held.Lease.ID {
			t.Errorf("the volume holds the lease %q, want %q to go on", after.Held.Lease.ID, before.Held.Lease.ID)
		}
		w.mustWork()
	})
}

func TestALeaseOutlivesAnEditOfItsClass(t *testing.T) {
	leasedWorld(t, func(t *testing.T, w *world) {
		before, _ := w.volumes.Get("csi-1")
		w.sets("unknown", "edited")
		if _, err := w.service.Refresh(t.Context(), "csi-1"); err != nil {
			t.Fatal(err)
		}
		held := w.asked[len(w.asked)-1].Held
		if held.Lease.ID != before.Held.Lease.ID || len(held.Versions) != 0 {
			t.Errorf("the provider was told that the volume holds %+v, want the lease and no versions", held)
		}
		w.mustWork()
		w.mustLease(1)
	})
}
