package rotate_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/rotate"
	"github.com/keymount/keymount/pkg/volume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A call is a Refresh, at a time since the test began.
type call struct {
	ID volume.ID
	At time.Duration
}

// A fake is a Publisher whose volumes are records only.
type fake struct {
	volume.Memory
	began    time.Time
	interval time.Duration
	takes    time.Duration               // how long each Refresh takes
	hangs    map[volume.ID]time.Duration // how long those of a volume take instead

	mu      sync.Mutex
	fail    map[volume.ID]error // what Refresh and Publish return
	calls   []call
	running map[volume.ID]bool
	most    int // refreshes at the same time
	twice   []volume.ID
}

func newFake() *fake {
	return &fake{began: time.Now(), interval: 10 * time.Second, fail: make(map[volume.ID]error), running: make(map[volume.ID]bool)}
}

// have makes a published volume that is due after a while.
func (f *fake) have(id volume.ID, due time.Duration) {
	_ = f.Put(volume.Record{ID: id, Due: time.Now().Add(due)})
}

func (f *fake) failWith(id volume.ID, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fail[id] = err
}

func (f *fake) begin(id volume.ID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, call{id, time.Since(f.began)})
	if f.running[id] {
		f.twice = append(f.twice, id)
	}
	f.running[id] = true
	f.most = max(f.most, len(f.running))
}

func (f *fake) end(id volume.ID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.running, id)
	return f.fail[id]
}

func (f *fake) Refresh(ctx context.Context, id volume.ID) (publish.Result, error) {
	f.begin(id)
	takes, hangs := f.hangs[id]
	if !hangs {
		takes = f.takes
	}
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		_ = f.end(id)
		return publish.Result{}, ctx.Err()
	}
	err := f.end(id)
	rec, ok := f.Get(id)
	if !ok {
		return publish.Result{}, fmt.Errorf("volume %s: %w", id, volume.ErrNotFound)
	}
	var stale *publish.StaleError
	switch {
	case err == nil:
		rec.Due, rec.Stale = time.Now().Add(f.interval), volume.Staleness{}
	case errors.As(err, &stale):
		rec.Due, rec.Stale = time.Now().Add(time.Second), volume.Staleness{Since: time.Now(), Failures: rec.Stale.Failures + 1, Reason: "Unavailable"}
	default:
		return publish.Result{}, err
	}
	_ = f.Put(rec)
	return publish.Result{Outcome: publish.Rotated, Record: rec}, err
}

func (f *fake) Publish(_ context.Context, v volume.Volume) (publish.Result, error) {
	f.mu.Lock()
	err := f.fail[v.ID]
	f.mu.Unlock()
	rec, ok := f.Get(v.ID)
	if err == nil && !ok {
		rec = volume.Record{ID: v.ID, Due: time.Now().Add(f.interval)}
		_ = f.Put(rec)
	}
	return publish.Result{Outcome: publish.NotDue, Record: rec}, err
}

func (f *fake) Unpublish(_ context.Context, id volume.ID, _ string) error { return f.Delete(id) }

// calledAt compares all calls of Refresh until now.
func (f *fake) calledAt(t *testing.T, want ...call) {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if diff := cmp.Diff(want, f.calls); diff != "" {
		t.Errorf("calls of Refresh (-want +got):\n%s", diff)
	}
}

// start runs the rotator; stop ends it.
func start(t *testing.T, r *rotate.Rotator) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Run(ctx) }()
	synctest.Wait()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v, want nil", err)
		}
	}
}

// pass lets the time pass, and what is due then happen.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// scenario runs a test with a fake clock, a fake and its rotator.
func scenario(t *testing.T, test func(t *testing.T, f *fake, r *rotate.Rotator)) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		test(t, f, rotate.New(f, f, nil))
		if len(f.twice) > 0 {
			t.Errorf("volumes refreshed twice at the same time: %v", f.twice)
		}
	})
}

func all(volume.Record) bool { return true }

func TestRefreshesAtTheDueTime(t *testing.T) {
	scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
		f.have("b", 7*time.Second)
		f.have("a", 3*time.Second)
		f.have("far", time.Hour)
		_ = f.Put(volume.Record{ID: "never"})
		defer start(t, r)()
		pass(3*time.Second - 1)
		f.calledAt(t)
		pass(20 * time.Second)
		f.calledAt(t, call{"a", 3 * time.Second}, call{"b", 7 * time.Second}, call{"a", 13 * time.Second}, call{"b", 17 * time.Second})
	})
}

func TestSeesADueTimeThatComesFirst(t *testing.T) {
	scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
		f.have("late", time.Hour)
		defer start(t, r)()
		_, _ = r.Observe(f).Publish(t.Context(), volume.Volume{ID: "new"})
		pass(10 * time.Second)
		f.calledAt(t, call{"new", 10 * time.Second})
	})
}

func TestStaleVolumesAreRefreshedAtTheDueTimeOfTheirRecord(t *testing.T) {
	scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
		f.have("a", time.Second)
		f.failWith("a", &publish.StaleError{ID: "a", Err: errors.New("down")})
		defer start(t, r)()
		pass(3 * time.Second)
		f.failWith("a", nil)
		pass(12 * time.Second)
		f.calledAt(t, call{"a", 1 * time.Second}, call{"a", 2 * time.Second}, call{"a", 3 * time.Second}, call{"a", 4 * time.Second}, call{"a", 14 * time.Second})
	})
}

func TestOtherErrorsBackOff(t *testing.T) {
	scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
		f.have("a", time.Second)
		f.failWith("a", errors.New("a bug"))
		defer start(t, r)()
		pass(9 * time.Second)
		f.calledAt(t, call{"a", 1 * time.Second}, call{"a", 2 * time.Second}, call{"a", 4 * time.Second}, call{"a", 8 * time.Second})

		// Kubelet's calls meanwhile do not change that: the record is overdue.
		for range 100 {
			_, _ = r.Observe(f).Publish(t.Context(), volume.Volume{ID: "a"})
		}
		pass(time.Hour)
		f.mu.Lock()
		last := f.calls[len(f.calls)-2:]
		f.mu.Unlock()
		if gap := last[1].At - last[0].At; gap != 5*time.Minute {
			t.Errorf("after an hour of errors: %v between two refreshes, want 5m", gap)
		}
	})
}

func TestARecordThatDoesNotMoveIsNoBusyLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.interval = 0 // each refresh succeeds, and leaves the volume due
		f.have("a", 0)
		stop := start(t, rotate.New(f, f, nil))
		pass(8 * time.Second)
		stop()
		f.calledAt(t, call{"a", 0}, call{"a", 1 * time.Second}, call{"a", 3 * time.Second}, call{"a", 7 * time.Second})
	})
}

func TestForgets(t *testing.T) {
	tests := []struct {
		name string
		act  func(f *fake, front publish.Publisher)
		want []call
	}{
		{"a volume that nothing is published of", func(f *fake, _ publish.Publisher) { _ = f.Delete("a") }, []call{{"a", 5 * time.Second}}},
		{"a volume that kubelet unpublishes", func(_ *fake, front publish.Publisher) {
			_ = front.Unpublish(context.Background(), "a", "")
		}, nil},
		{"a volume whose publish fails and leaves nothing", func(f *fake, front publish.Publisher) {
			_ = f.Delete("a")
			f.failWith("a", errors.New("rolled back"))
			_, _ = front.Publish(context.Background(), volume.Volume{ID: "a"})
		}, nil},
		{"a volume that is not to be refreshed any more", func(f *fake, front publish.Publisher) {
			_ = f.Put(volume.Record{ID: "a"})
			_, _ = front.Publish(context.Background(), volume.Volume{ID: "a"})
		}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
				f.have("a", 5*time.Second)
				defer start(t, r)()
				test.act(f, r.Observe(f))
				pass(time.Hour)
				f.calledAt(t, test.want...)
			})
		})
	}
}

func TestAVolumePublishedWhileItsRefreshFindsNothingIsKept(t *testing.T) {
	scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
		f.takes = 2 * time.Second
		f.have("a", time.Second)
		f.failWith("a", fmt.Errorf("gone: %w", volume.ErrNotFound))
		defer start(t, r)()
		pass(2 * time.Second) // the refresh is on its way
		_ = f.Delete("a")
		f.failWith("a", nil)
		_, _ = r.Observe(f).Publish(t.Context(), volume.Volume{ID: "a"})
		f.failWith("a", fmt.Errorf("gone: %w", volume.ErrNotFound))
		pass(2 * time.Second)
		f.failWith("a", nil)
		pass(9 * time.Second)
		f.calledAt(t, call{"a", 1 * time.Second}, call{"a", 12 * time.Second})
	})
}

func TestManyVolumesFewWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		f := newFake()
		f.takes, f.interval = 10*time.Millisecond, time.Hour
		for i := range n {
			f.have(volume.ID(fmt.Sprint(i)), time.Second)
		}
		stop := start(t, rotate.New(f, f, nil))
		pass(time.Second + n/4*f.takes)
		stop()
		if f.most != 4 || len(f.twice) > 0 {
			t.Errorf("%d refreshes at the same time, %v twice, want 4 and none", f.most, f.twice)
		}
		refreshed := make(map[volume.ID]int)
		for _, c := range f.calls {
			refreshed[c.ID]++
		}
		if len(f.calls) != n || len(refreshed) != n {
			t.Errorf("%d refreshes of %d volumes, want one for each of %d", len(f.calls), len(refreshed), n)
		}
	})
}

func TestDueNow(t *testing.T) {
	scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
		f.have("a", time.Hour)
		f.have("b", time.Hour)
		_ = f.Put(volume.Record{ID: "never"})
		defer start(t, r)()
		pass(time.Second)
		r.DueNow(func(rec volume.Record) bool { return rec.ID != "b" })
		pass(time.Second)
		slices.SortFunc(f.calls, func(a, b call) int { return strings.Compare(string(a.ID), string(b.ID)) })
		f.calledAt(t, call{"a", time.Second}, call{"never", time.Second}) // whoever matches knows why
	})
}

func TestDueNowBeforeRunIsNotSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.interval = time.Hour
		f.have("a", -time.Hour)
		f.have("b", -time.Second)
		f.have("c", -time.Minute)
		r := rotate.New(f, f, &rotate.Options{Spread: time.Minute})
		r.DueNow(func(rec volume.Record) bool { return rec.ID == "b" })
		stop := start(t, r)
		pass(31 * time.Second)
		stop()
		slices.SortFunc(f.calls[:2], func(a, b call) int { return strings.Compare(string(a.ID), string(b.ID)) }) // of one moment
		f.calledAt(t, call{"a", 0}, call{"b", 0}, call{"c", 30 * time.Second})
	})
}

func TestDueNowSurvivesAnObservedCall(t *testing.T) {
	scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
		f.have("a", time.Hour)
		r.DueNow(all)
		_, _ = r.Observe(f).Publish(t.Context(), volume.Volume{ID: "a"})
		defer start(t, r)()
		f.calledAt(t, call{"a", 0})
	})
}

func TestDueNowDuringARefreshRefreshesAgain(t *testing.T) {
	scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
		f.takes = 3 * time.Second
		f.have("a", time.Second)
		defer start(t, r)()
		pass(2 * time.Second)
		r.DueNow(all)
		r.DueNow(all)
		pass(6 * time.Second)
		f.calledAt(t, call{"a", time.Second}, call{"a", 4 * time.Second})
	})
}

func TestStormsOfPublishesCauseNoRefresh(t *testing.T) {
	for _, order := range []string{"before Run", "during Run"} {
		t.Run(order, func(t *testing.T) {
			scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
				front := r.Observe(f)
				if order == "during Run" {
					defer start(t, r)()
				}
				var wg sync.WaitGroup
				for i := range 20 {
					wg.Go(func() {
						for range 50 {
							_, _ = front.Publish(t.Context(), volume.Volume{ID: volume.ID(fmt.Sprint(i % 5))})
						}
					})
				}
				wg.Wait()
				if order == "before Run" {
					defer start(t, r)()
				}
				pass(10*time.Second - 1)
				f.calledAt(t)
				pass(time.Second)
				if len(f.calls) != 5 {
					t.Errorf("%d refreshes when 5 volumes are due, want 5", len(f.calls))
				}
			})
		})
	}
}

func TestARefreshFromOutsideMovesTheDueTime(t *testing.T) {
	scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
		f.have("a", 5*time.Second)
		defer start(t, r)()
		pass(4 * time.Second)
		_, _ = r.Observe(f).Refresh(t.Context(), "a")
		pass(10 * time.Second)
		f.calledAt(t, call{"a", 4 * time.Second}, call{"a", 14 * time.Second})
	})
}

func TestARestartSpreadsWhatIsOverdue(t *testing.T) {
	tests := []struct {
		name    string
		opts    *rotate.Options
		overdue int
		gap     time.Duration
	}{
		{"one is refreshed at once", nil, 1, 0},
		{"a few take 100ms each", nil, 10, 100 * time.Millisecond},
		{"many take 30s", nil, 3000, 10 * time.Millisecond},
		{"the spread is adjustable", &rotate.Options{Spread: 10 * time.Second}, 10, time.Second},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				f.interval = time.Hour
				var want []call
				for i := range test.overdue { // the longest overdue is the first
					id := volume.ID(fmt.Sprint(test.overdue - i))
					f.have(id, time.Duration(i-test.overdue)*time.Second)
					want = append(want, call{id, time.Duration(i) * test.gap})
				}
				stop := start(t, rotate.New(f, f, test.opts))
				pass(time.Minute)
				stop()
				f.calledAt(t, want...)
			})
		})
	}
}

func TestRunCancelsAndWaits(t *testing.T) {
	scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
		f.takes = time.Hour
		for i := range 10 { // more than there are workers
			f.have(volume.ID(fmt.Sprint(i)), 0)
		}
		stop := start(t, r)
		pass(time.Minute)
		stop()
		if took := time.Since(f.began); took != time.Minute || len(f.running) > 0 || len(f.calls) != 4 {
			t.Errorf("Run ended after %v with %d of %d refreshes running, want 1m with 0 of 4", took, len(f.running), len(f.calls))
		}

		// Nothing is lost for a later Run.
		f.takes, f.interval, f.calls = 0, time.Hour, nil
		stop = start(t, r)
		pass(time.Minute)
		stop()
		if len(f.calls) != 10 {
			t.Errorf("%d refreshes by the next Run, want 10", len(f.calls))
		}
	})
}
