package rotate_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/rotate"
	"github.com/keymount/keymount/pkg/volume"
)

// everyTwoMinutes is when a volume of that interval is refreshed in an hour.
func everyTwoMinutes(id volume.ID) (calls []call) {
	for at := 2 * time.Minute; at <= time.Hour; at += 2 * time.Minute {
		calls = append(calls, call{id, at})
	}
	return calls
}

// callsOf returns the calls of Refresh for one volume.
func (f *fake) callsOf(id volume.ID) (calls []call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.calls {
		if c.ID == id {
			calls = append(calls, c)
		}
	}
	return calls
}

func TestVolumesThatHangDoNotDelayOthers(t *testing.T) {
	tests := []struct {
		name    string
		hanging volume.Record // of which there are 60
		most    int           // refreshes at the same time
	}{
		{"of a provider that hangs", volume.Record{Provider: "hangs"}, 4 + 4 + 1},
		{"of the same provider, and stale", volume.Record{Provider: "works", Stale: volume.Staleness{Failures: 1}}, 4 + 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
				f.interval, f.hangs = 2*time.Minute, make(map[volume.ID]time.Duration)
				for i := range 60 {
					rec := test.hanging
					rec.ID, rec.Due = volume.ID(fmt.Sprint("hanging-", i)), time.Now().Add(time.Duration(i)*time.Second)
					_ = f.Put(rec)
					f.hangs[rec.ID] = 90 * time.Second
					f.failWith(rec.ID, &publish.StaleError{ID: rec.ID, Err: context.DeadlineExceeded})
				}
				_ = f.Put(volume.Record{ID: "healthy", Provider: "works", Due: time.Now().Add(f.interval)})
				defer start(t, r)()
				pass(time.Hour)
				if diff := cmp.Diff(everyTwoMinutes("healthy"), f.callsOf("healthy")); diff != "" {
					t.Errorf("refreshes of the healthy volume (-want +got):\n%s", diff)
				}
				if f.most > test.most {
					t.Errorf("%d refreshes at the same time, want at most %d", f.most, test.most)
				}
			})
		})
	}
}

func TestAVolumeMovesToTheLaneOfItsNewProvider(t *testing.T) {
	for name, due := range map[string]time.Duration{"when it is overdue": 0, "when it has another due time": 2 * time.Minute} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.hangs = map[volume.ID]time.Duration{"hanging": time.Hour}
				_ = f.Put(volume.Record{ID: "hanging", Provider: "hangs", Due: time.Now().Add(-time.Minute)})
				_ = f.Put(volume.Record{ID: "moved", Provider: "hangs", Due: time.Now()})
				r := rotate.New(f, f, &rotate.Options{Workers: 1})
				stop := start(t, r)
				pass(time.Second)
				f.calledAt(t, call{"hanging", 0}) // and the other waits for it
				_ = f.Put(volume.Record{ID: "moved", Provider: "works", Due: f.began.Add(due)})
				_, _ = r.Observe(f).Publish(t.Context(), volume.Volume{ID: "moved"})
				synctest.Wait()
				pass(due - time.Second)
				stop()
				f.calledAt(t, call{"hanging", 0}, call{"moved", max(due, time.Second)})
			})
		})
	}
}

func TestAFloodOfDueNowRefreshesAVolumeOnceASecond(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want []call
	}{
		{"when refreshes succeed", nil, []call{{"a", 0}, {"a", time.Second}, {"a", 2 * time.Second}}},
		{"when they fail, with a backoff after the flood", errors.New("a bug"),
			[]call{{"a", 0}, {"a", time.Second}, {"a", 2 * time.Second}, {"a", 6 * time.Second}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
				f.interval = time.Hour
				f.have("a", time.Hour)
				f.failWith("a", test.err)
				defer start(t, r)()
				for range 2000 {
					r.DueNow(all)
					pass(time.Millisecond)
				}
				f.failWith("a", nil)
				pass(10 * time.Minute)
				f.calledAt(t, test.want...)
			})
		})
	}
}

func TestDueFrom(t *testing.T) {
	tests := []struct {
		name string
		act  func(f *fake, r *rotate.Rotator)
		want []call
	}{
		{"volumes are refreshed one after another", func(*fake, *rotate.Rotator) {},
			[]call{{"a", time.Minute}, {"b", time.Minute + 100*time.Millisecond}}},
		{"but when they are due earlier", func(f *fake, r *rotate.Rotator) {
			_ = f.Put(volume.Record{ID: "b", Due: time.Now().Add(time.Second)})
			_, _ = r.Observe(f).Publish(context.Background(), volume.Volume{ID: "b"})
		}, []call{{"b", time.Second}, {"a", time.Minute}}},
		{"also if a change comes first", func(_ *fake, r *rotate.Rotator) {
			r.DueNow(func(rec volume.Record) bool { return rec.ID == "a" })
		}, []call{{"a", 0}, {"b", time.Minute + 100*time.Millisecond}}},
		{"also if kubelet calls meanwhile", func(f *fake, r *rotate.Rotator) {
			_, _ = r.Observe(f).Publish(context.Background(), volume.Volume{ID: "a"})
		}, []call{{"a", time.Minute}, {"b", time.Minute + 100*time.Millisecond}}},
		{"once, if it is said twice", func(_ *fake, r *rotate.Rotator) { r.DueFrom(time.Now().Add(2*time.Minute), all) },
			[]call{{"a", time.Minute}, {"b", time.Minute + 100*time.Millisecond}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
				f.interval = time.Hour
				f.have("a", 2*time.Hour)
				f.have("b", 3*time.Hour)
				defer start(t, r)()
				r.DueFrom(time.Now().Add(time.Minute), all)
				test.act(f, r)
				pass(30 * time.Minute)
				f.calledAt(t, test.want...)
			})
		})
	}
}
