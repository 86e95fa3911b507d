package publish_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/pkg/publish"
)

func TestAnotherDriverTakesTheScheduleOver(t *testing.T) {
	never := func(due, _ time.Time) bool { return due.IsZero() }
	now := func(due, now time.Time) bool { return due.Equal(now) }
	within := func(d time.Duration) func(due, now time.Time) bool {
		return func(due, now time.Time) bool { return !due.IsZero() && due.Before(now.Add(d)) }
	}
	for _, c := range []struct {
		name          string
		before, after *publish.Schedule
		meanwhile     func(w *world)
		want          func(due, now time.Time) bool
	}{
		{"rotation is turned off", &publish.Schedule{Interval: time.Hour}, nil, nil, never},
		{"rotation is turned on", nil, &publish.Schedule{Interval: time.Hour}, nil, within(time.Hour)},
		{"the interval becomes shorter", &publish.Schedule{Interval: 24 * time.Hour}, &publish.Schedule{Interval: time.Minute}, nil, within(0)},
		{"the class changed", &publish.Schedule{Interval: 24 * time.Hour}, &publish.Schedule{Interval: 24 * time.Hour},
			func(w *world) { w.asks(providertest.Object{Name: "password", Mode: 0o400}) }, now},
		{"the class became malformed", &publish.Schedule{Interval: 24 * time.Hour}, &publish.Schedule{Interval: 24 * time.Hour},
			func(w *world) { w.sets(class.RotationInterval, "soon") }, now},
		{"the class wanted no rotation and wants none", &publish.Schedule{}, &publish.Schedule{}, nil, never},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.config.Schedule = c.before
				w.service = publish.New(w.config)
				w.mustPublish()
				time.Sleep(5 * time.Minute)
				if c.meanwhile != nil {
					c.meanwhile(w)
				}
				w.config.Schedule = c.after
				w.service = publish.New(w.config)
				if err := w.service.Reconcile(t.Context()); err != nil {
					t.Fatal(err)
				}
				rec, _ := w.volumes.Get("csi-1")
				if !c.want(rec.Due, time.Now()) {
					t.Errorf("due %v at %v", rec.Due, time.Now())
				}
				if got := w.store.Fetches(); got != 1 {
					t.Errorf("%d fetches, want only that of the publish", got)
				}
			})
		})
	}
}

func TestReconcileKeepsWhatItCannotLookUp(t *testing.T) {
	w := newWorld(t)
	before := w.mustPublish().Record.Due
	w.breaks(stepClass, errFault)
	if err := w.service.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if rec, _ := w.volumes.Get("csi-1"); !rec.Due.Equal(before) {
		t.Errorf("due %v, want %v", rec.Due, before)
	}
}

func TestReconcileReportsWhatItCannotRemember(t *testing.T) {
	w := newWorld(t)
	w.mustPublish()
	w.config.Schedule = nil
	w.service = publish.New(w.config)
	w.breaks(stepPut, errFault)
	check(t, w.service.Reconcile(t.Context()), errFault)
}

func TestReconcileRemovesWhatAKilledDriverLeft(t *testing.T) {
	w := newWorld(t)
	w.mustPublish()
	orphan := filepath.Join(w.target, "..2026_01_02_03_04_05.7")
	if err := os.Mkdir(orphan, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(orphan, "password"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.service.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(orphan); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the orphan generation is left: %v", err)
	}
	w.mustHold(map[string]string{"password": "first"})
}

func TestReconcileLeavesAVolumeThatIsGone(t *testing.T) {
	w := newWorld(t)
	w.mustPublish()
	w.breaks(stepOpen, errFault)
	before, _ := w.volumes.Get("csi-1")
	if err := w.service.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after, _ := w.volumes.Get("csi-1"); !after.Due.Equal(before.Due) {
		t.Errorf("due %v, was %v", after.Due, before.Due)
	}
}
