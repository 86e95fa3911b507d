package publish_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// A fault is one way in which a call can go wrong.
type fault struct {
	name   string
	inject func(w *world)
	want   error // that the error wraps; nil: any
}

func breaking(step string, err error) func(*world) {
	return func(w *world) { w.breaks(step, err) }
}

// faults returns every fault that both a first publish and a refresh meet.
func faults() []fault {
	all := []fault{
		{"the class source fails", breaking(stepClass, errFault), errFault},
		{"the class is gone", breaking(stepClass, class.ErrNotFound), class.ErrNotFound},
		{"the class sets a malformed interval", func(w *world) { w.sets(class.RotationInterval, "soon") }, class.ErrInvalid},
		{"the provider is not installed", breaking(stepLookup, provider.ErrUnavailable), provider.ErrUnavailable},
		{"the provider says invalid", breaking(stepFetch, provider.ErrInvalid), provider.ErrInvalid},
		{"the provider says not found", breaking(stepFetch, provider.ErrNotFound), provider.ErrNotFound},
		{"the provider says denied", breaking(stepFetch, provider.ErrDenied), provider.ErrDenied},
		{"the provider is unavailable", breaking(stepFetch, provider.ErrUnavailable), provider.ErrUnavailable},
		{"the provider answers nothing", breaking(stepReply, errNoBundle), nil},
		{"the provider answers without versions", breaking(stepReply, errNoVersions), nil},
		{"the provider answers with a path that escapes", breaking(stepReply, errEscape), nil},
		{"the bundle is larger than the volume", breaking(stepReply, errTooBig), unix.ENOSPC},
		{"the mount vanishes during the fetch", func(w *world) {
			w.during(stepFetch, func() { _ = unix.Unmount(w.target, unix.MNT_DETACH) })
		}, nil},
		{"another mount covers the target during the fetch", func(w *world) {
			w.during(stepFetch, func() { _ = unix.Mount("other", w.target, "tmpfs", 0, "") })
		}, nil},
		{"the mount cannot be looked at after the write", func(w *world) {
			w.during(stepOpen, func() { w.breaks(stepMounted, errFault) })
		}, errFault},
		{"the mount cannot be opened", breaking(stepOpen, errFault), errFault},
		{"the record cannot be stored", breaking(stepPut, errFault), errFault},
	}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		err := status.Error(code, "the provider's words")
		all = append(all, fault{fmt.Sprintf("the provider answers with gRPC code %v", code), breaking(stepFetch, err), err})
	}
	return all
}

func check(t *testing.T, err, want error) {
	t.Helper()
	if err == nil || want != nil && !errors.Is(err, want) {
		t.Fatalf("error = %v, want one that wraps %v", err, want)
	}
}

func TestAFirstPublishThatFailsLeavesNothing(t *testing.T) {
	for _, f := range append(faults(), fault{"the mount fails", breaking(stepMount, errFault), errFault}) {
		t.Run(f.name, func(t *testing.T) {
			w := newWorld(t)
			healthy := w.class
			f.inject(w)
			_, err := w.publish()
			check(t, err, f.want)
			var stale *publish.StaleError
			if errors.As(err, &stale) {
				t.Errorf("error = %v: a volume that was never published is not stale", err)
			}
			w.mustBeGone()
			w.repair()
			w.class = healthy
			w.mustPublish()
			w.mustHold(map[string]string{"password": "first"})
		})
	}
}

func TestARefreshThatFailsKeepsTheOldFiles(t *testing.T) {
	calls := map[string]func(*world) error{
		"republish": func(w *world) error { _, err := w.publish(); return err },
		"refresh":   func(w *world) error { _, err := w.service.Refresh(w.t.Context(), "csi-1"); return err },
	}
	for call, do := range calls {
		for _, f := range faults() {
			t.Run(call+"/"+f.name, func(t *testing.T) {
				w := newWorld(t)
				healthy := w.class
				w.mustPublish()
				w.store.Put("password", []byte("second"))
				w.makeDue()
				f.inject(w)
				err := do(w)
				check(t, err, f.want)
				var stale *publish.StaleError
				if !errors.As(err, &stale) {
					t.Fatalf("error = %v, want a *StaleError", err)
				}
				w.mustExplain(f)
				w.mustServeOneGeneration(f)
				w.repair()
				w.class = healthy
				w.recover(f)
				w.mustHold(map[string]string{"password": "second"})
				if rec, _ := w.volumes.Get("csi-1"); !rec.Stale.IsZero() {
					t.Errorf("still stale after recovery: %+v", rec.Stale)
				}
			})
		}
	}
}

// mustExplain checks that the record says why and since when it is stale, and
// that the next attempt is due later.
func (w *world) mustExplain(f fault) {
	w.t.Helper()
	if f.name == "the record cannot be stored" {
		return
	}
	rec, _ := w.volumes.Get("csi-1")
	if rec.Stale.Failures != 1 || rec.Stale.Message == "" || rec.Stale.Reason == "" || rec.Stale.Since.IsZero() {
		w.t.Errorf("staleness = %+v, want one failure with its reason", rec.Stale)
	}
	if wait := time.Until(rec.Due); wait <= 0 || wait > 6*time.Second {
		w.t.Errorf("next attempt in %v, want about 5s", wait)
	}
}

// mustServeOneGeneration checks that the pod reads what it held, wherever its
// mount is now.
func (w *world) mustServeOneGeneration(f fault) {
	w.t.Helper()
	switch f.name {
	case "the mount vanishes during the fetch":
		entries, err := os.ReadDir(w.target)
		if err != nil || len(entries) != 0 {
			w.t.Errorf("the directory below the mount holds %v, %v; want nothing", entries, err)
		}
	case "another mount covers the target during the fetch":
		if err := unix.Unmount(w.target, 0); err != nil {
			w.t.Fatal(err)
		}
		w.mustHold(map[string]string{"password": "first"})
	case "the record cannot be stored", "the mount cannot be looked at after the write":
		w.mustHold(map[string]string{"password": "second"})
	default:
		w.mustHold(map[string]string{"password": "first"})
	}
}

// recover brings the volume up to date once the fault is gone.
func (w *world) recover(f fault) {
	w.t.Helper()
	if f.name == "the mount vanishes during the fetch" {
		if _, err := w.service.Refresh(w.t.Context(), "csi-1"); !errors.Is(err, volume.ErrNotFound) {
			w.t.Errorf("refresh without a mount = %v, want ErrNotFound", err)
		}
		w.mustPublish()
		return
	}
	if _, err := w.service.Refresh(w.t.Context(), "csi-1"); err != nil {
		w.t.Fatalf("refresh after repair: %v", err)
	}
}

// What the record says of a volume whose files changed all the same would be
// true again once the store goes back to what it had.
func TestARefreshThatFailsAfterTheWriteForgetsWhatTheVolumeHeld(t *testing.T) {
	for name, inject := range map[string]func(*world){
		"the mount cannot be looked at": func(w *world) {
			w.during(stepOpen, func() { w.breaks(stepMounted, errFault) })
		},
		"the record cannot be stored": func(w *world) {
			w.breaks(stepPut, errFault)
			w.during(stepPut, w.repair) // only what was fetched cannot
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.mustPublish()
			w.store.Put("password", []byte("second"))
			inject(w)
			_, err := w.service.Refresh(t.Context(), "csi-1")
			check(t, err, errFault)
			w.repair()
			w.mustHold(map[string]string{"password": "second"})
			w.store.Put("password", []byte("first"))
			if _, err := w.service.Refresh(t.Context(), "csi-1"); err != nil {
				t.Fatal(err)
			}
			w.mustHold(map[string]string{"password": "first"})
		})
	}
}

func TestUnpublishNeedsNeitherProviderNorClass(t *testing.T) {
	for _, f := range faults() {
		if f.name == "the record cannot be stored" {
			continue // unpublish stores nothing
		}
		t.Run(f.name, func(t *testing.T) {
			w := newWorld(t)
			w.mustPublish()
			f.inject(w)
			if err := w.service.Unpublish(t.Context(), "csi-1", w.target); err != nil {
				t.Fatalf("unpublish: %v", err)
			}
			w.mustBeGone()
		})
	}
}

func TestUnpublishThatFailsCanBeRepeated(t *testing.T) {
	for _, step := range []string{stepUnmount, stepDelete} {
		t.Run(step, func(t *testing.T) {
			w := newWorld(t)
			w.mustPublish()
			w.breaks(step, errFault)
			check(t, w.service.Unpublish(t.Context(), "csi-1", w.target), errFault)
			w.repair()
			if err := w.service.Unpublish(t.Context(), "csi-1", w.target); err != nil {
				t.Fatalf("second unpublish: %v", err)
			}
			w.mustBeGone()
		})
	}
}

func TestARollbackThatFailsIsReportedToo(t *testing.T) {
	w := newWorld(t)
	w.breaks(stepFetch, provider.ErrDenied)
	w.breaks(stepUnmount, errFault)
	_, err := w.publish()
	check(t, err, provider.ErrDenied)
	check(t, err, errFault)
	w.repair()
	w.mustPublish()
	w.mustHold(map[string]string{"password": "first"})
}

func TestACallerThatGivesUp(t *testing.T) {
	t.Run("during a first publish leaves nothing", func(t *testing.T) {
		w := newWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		w.during(stepFetch, cancel)
		w.store.Hang()
		_, err := w.service.Publish(ctx, w.volume())
		check(t, err, nil)
		w.mustBeGone()
	})
	t.Run("during a refresh is no staleness of the backend", func(t *testing.T) {
		w := newWorld(t)
		w.mustPublish()
		ctx, cancel := context.WithCancel(t.Context())
		w.during(stepFetch, cancel)
		w.store.Hang()
		_, err := w.service.Refresh(ctx, "csi-1")
		check(t, err, nil)
		if rec, _ := w.volumes.Get("csi-1"); !rec.Stale.IsZero() {
			t.Errorf("staleness = %+v, want none", rec.Stale)
		}
		w.mustHold(map[string]string{"password": "first"})
	})
}

func TestATargetThatIsNotOursNeverCountsAsPublished(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, w *world)
	}{
		{"a bare directory of a failed attempt (upstream's empty volumes)", func(t *testing.T, w *world) {
			must(t, os.MkdirAll(w.target, 0o750))
		}},
		{"a bare directory and a record of a mount that is gone", func(t *testing.T, w *world) {
			w.mustPublish()
			must(t, unix.Unmount(w.target, 0))
		}},
		{"an empty memory file system of a killed driver", func(t *testing.T, w *world) {
			must(t, os.MkdirAll(w.target, 0o750))
			must(t, unix.Mount("tmpfs", w.target, "tmpfs", 0, "size=1m"))
		}},
		{"two mounts on top of each other", func(t *testing.T, w *world) {
			w.mustPublish()
			must(t, unix.Mount("tmpfs", w.target, "tmpfs", 0, "size=1m"))
		}},
		{"a bind mount of something else", func(t *testing.T, w *world) {
			must(t, os.MkdirAll(w.target, 0o750))
			other := t.TempDir()
			must(t, os.WriteFile(filepath.Join(other, "foreign"), nil, 0o600))
			must(t, unix.Mount(other, w.target, "", unix.MS_BIND, ""))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			c.prepare(t, w)
			asked := w.store.Fetches()
			w.mustPublish()
			if w.store.Fetches() == asked {
				t.Error("published without asking the provider")
			}
			w.mustHold(map[string]string{"password": "first"})
			w.mustBePublished()
			if err := w.service.Unpublish(t.Context(), "csi-1", w.target); err != nil {
				t.Fatal(err)
			}
			w.mustBeGone()
		})
	}
}

// What a running pod holds is never taken away by a publish that fails.
func TestAPublishThatFailsNeverUnmountsAPod(t *testing.T) {
	must := func(t *testing.T, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	old := map[string]string{"password": "first"}
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, w *world)
	}{
		{"while its mount cannot be looked at", func(_ *testing.T, w *world) { w.breaks(stepMounted, errFault) }},
		{"while another mount covers it", func(t *testing.T, w *world) {
			must(t, unix.Mount("other", w.target, "tmpfs", 0, ""))
		}},
		{"while its record is lost", func(t *testing.T, w *world) { must(t, w.volumes.Delete("csi-1")) }},
		{"while its record is lost and its class is gone", func(t *testing.T, w *world) {
			must(t, w.volumes.Delete("csi-1"))
			w.breaks(stepClass, class.ErrNotFound)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.mustPublish()
			mount, err := w.mounts.Mounted(w.target)
			must(t, err)
			c.prepare(t, w)
			w.breaks(stepFetch, provider.ErrUnavailable)
			_, err = w.publish()
			check(t, err, nil)
			w.mustHold(old)
			if now, err := w.mounts.Mounted(w.target); err != nil || now != mount {
				t.Errorf("Mounted = %v, %v; want the pod's mount %v", now, err, mount)
			}
			w.repair()
			w.mustPublish()
			w.mustHold(old)
			w.mustBePublished()
		})
	}
}
