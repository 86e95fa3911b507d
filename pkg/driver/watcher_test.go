package driver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/rotate"
	"github.com/keymount/keymount/pkg/volume"
)

// A refresh of a volume, at a time since the test began.
type refresh struct {
	ID volume.ID
	At time.Duration
}

// A scene is a watcher and its rotator. It is the publisher too, whose volumes
// are records that each Refresh succeeds on.
type scene struct {
	volume.Memory
	publish.Publisher
	watcher *watcher
	front   publish.Publisher
	began   time.Time
	tellers map[string]func(ctx context.Context, changed func(string)) error // Changes by provider
	uses    string                                                           // the provider of what is published or refreshed next; "" leaves it
	looks   atomic.Int64                                                     // at all records

	mu        sync.Mutex
	refreshes []refresh
}

// play runs a test with a fake clock. A day passes between two refreshes that
// nobody asks for.
func play(t *testing.T, test func(t *testing.T, s *scene)) {
	synctest.Test(t, func(t *testing.T) {
		s := &scene{began: time.Now(), tellers: make(map[string]func(context.Context, func(string)) error)}
		s.watcher = &watcher{providers: s.lookup}
		watched := s.watcher.observe(s)
		s.watcher.rotator = rotate.New(watched, s, nil)
		s.front = s.watcher.rotator.Observe(watched)
		test(t, s)
	})
}

// start runs the watcher and the rotator until the test ends.
func (s *scene) start(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = s.watcher.rotator.Run(ctx) })
	running.Go(func() { _ = s.watcher.run(ctx, s.List()) })
	t.Cleanup(func() { cancel(); running.Wait() })
	synctest.Wait()
}

// have makes a volume that was refreshed a while ago and holds an object.
func (s *scene) have(id volume.ID, name, object string, ago time.Duration) {
	_ = s.Put(volume.Record{
		ID: id, Provider: name, Held: provider.Held{Versions: provider.Versions{object: "1"}},
		Refreshed: time.Now().Add(-ago), Due: time.Now().Add(24 * time.Hour),
	})
}

func (s *scene) lookup(name string) (provider.Provider, error) {
	if s.tellers[name] == nil {
		return nil, fmt.Errorf("provider %q: %w", name, provider.ErrUnavailable)
	}
	return teller{changes: s.tellers[name]}, nil
}

type teller struct {
	provider.Provider
	changes func(ctx context.Context, changed func(string)) error
}

func (t teller) Changes(ctx context.Context, changed func(string)) error {
	return t.changes(ctx, changed)
}

func (s *scene) List() []volume.Record {
	s.looks.Add(1)
	return s.Memory.List()
}

func (s *scene) Publish(_ context.Context, v volume.Volume) (publish.Result, error) {
	return s.update(v.ID)
}

func (s *scene) Refresh(_ context.Context, id volume.ID) (publish.Result, error) {
	s.mu.Lock()
	s.refreshes = append(s.refreshes, refresh{id, time.Since(s.began)})
	s.mu.Unlock()
	return s.update(id)
}

func (s *scene) update(id volume.ID) (publish.Result, error) {
	rec, _ := s.Get(id)
	rec.ID, rec.Refreshed, rec.Due = id, time.Now(), time.Now().Add(24*time.Hour)
	rec.Provider = cmp.Or(s.uses, rec.Provider)
	return publish.Result{Outcome: publish.Unchanged, Record: rec}, s.Put(rec)
}

// refreshed compares all refreshes until now; those of one moment in any order.
func (s *scene) refreshed(t *testing.T, want ...refresh) {
	t.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	got := slices.SortedFunc(slices.Values(s.refreshes), func(a, b refresh) int {
		return cmp.Or(cmp.Compare(a.At, b.At), strings.Compare(string(a.ID), string(b.ID)))
	})
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("refreshes (-want +got):\n%s", diff)
	}
}

// pass lets the time pass.
func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// telling tells the IDs that come through the channel.
func telling(ids <-chan string) func(context.Context, func(string)) error {
	return func(ctx context.Context, changed func(string)) error {
		changed("")
		for {
			select {
			case id := <-ids:
				changed(id)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

func TestAChangeMakesItsVolumesDueAtOnce(t *testing.T) {
	tests := []struct {
		name string
		told string
		want []refresh
	}{
		{"the volumes that hold the object", "x", []refresh{{"a", time.Hour}}},
		{"none, if none holds it", "y", nil},
		{"all of the provider, if any object may have changed", "", []refresh{{"a", time.Hour}, {"b", time.Hour}}},
		{"all of the provider, if the ID is longer than any that is held", strings.Repeat("x", maxID+1), []refresh{{"a", time.Hour}, {"b", time.Hour}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			play(t, func(t *testing.T, s *scene) {
				ids := make(chan string)
				s.tellers["p"] = telling(ids)
				s.have("a", "p", "x", time.Hour)
				s.have("b", "p", "z", time.Hour)
				s.have("other", "q", "x", time.Hour)
				_ = s.Put(volume.Record{ID: "never", Provider: "p", Held: provider.Held{Versions: provider.Versions{"x": "1"}}})
				s.start(t)
				pass(time.Hour)
				ids <- test.told
				s.refreshed(t, test.want...)
			})
		})
	}
}

func TestAFloodOfChangesIsSlowedDown(t *testing.T) {
	for _, told := range []string{"", "x"} {
		t.Run(fmt.Sprintf("of object %q", told), func(t *testing.T) {
			play(t, func(t *testing.T, s *scene) {
				var changes int
				s.tellers["p"] = func(ctx context.Context, changed func(string)) error {
					for changed(""); ctx.Err() == nil; changes++ {
						changed(told)
					}
					return ctx.Err()
				}
				s.have("a", "p", "x", time.Hour)
				s.start(t)
				pass(2*time.Second - 1)
				s.refreshed(t, refresh{"a", 0}, refresh{"a", time.Second})
				const passes = int(2 * time.Second / minPause)
				if looks, most := s.looks.Load(), int64(passes+3); looks > most { // three by the start and the stream's begin
					t.Errorf("%d looks at all records in 2s, want at most %d", looks, most)
				}
				if most := (passes + 1) * (maxTold + 1); changes > most {
					t.Errorf("%d changes taken in 2s, want at most %d", changes, most)
				}
			})
		})
	}
}

func TestNoChangeOfABurstIsLost(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		const n = 10 * maxTold
		ids := make(chan string)
		s.tellers["p"] = telling(ids)
		for i := range n {
			s.have(volume.ID(fmt.Sprint(i)), "p", fmt.Sprint(i), time.Hour)
		}
		s.start(t)
		for i := range n {
			ids <- fmt.Sprint(i)
		}
		pass(time.Second)
		if len(s.refreshes) != n {
			t.Errorf("%d refreshes after %d changes of as many volumes, want one each", len(s.refreshes), n)
		}
	})
}

func TestTheFirstStreamConcernsFreshVolumesOnly(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		s.tellers["p"] = telling(nil)
		s.have("fresh", "p", "x", overlap/2)
		s.have("old", "p", "x", 2*overlap)
		s.start(t)
		pass(time.Hour)
		s.refreshed(t, refresh{"fresh", 0})
	})
}

func TestALostStreamConcernsAllVolumesOneAfterAnother(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		lost := make(chan error)
		s.tellers["p"] = func(ctx context.Context, changed func(string)) error {
			changed("")
			select {
			case err := <-lost:
				return err
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		for _, id := range []volume.ID{"a", "b", "c"} {
			s.have(id, "p", "x", time.Hour)
		}
		s.start(t)
		pass(time.Hour)
		lost <- errors.New("the provider is replaced")
		pass(time.Hour)
		want := []refresh{{"a", time.Hour + minRewatch}, {"b", time.Hour + minRewatch + 100*time.Millisecond}, {"c", time.Hour + minRewatch + 200*time.Millisecond}}
		s.refreshed(t, want...)

		// What was missed is found again the next time.
		lost <- errors.New("the provider is replaced")
		pass(time.Hour)
		for _, r := range want {
			want = append(want, refresh{r.ID, r.At + time.Hour})
		}
		s.refreshed(t, want...)
	})
}

func TestAProviderThatCrashesInALoopCausesARoundInFiveMinutes(t *testing.T) {
	play(t, func(t *testing.T, s *scene) {
		streams := 0
		s.tellers["p"] = func(_ context.Context, changed func(string)) error {
			streams++
			changed("")
			return errors.New("crashed")
		}
		s.have("a", "p", "x", time.Hour)
		s.have("b", "p", "x", time.Hour)
		s.start(t)
		pass(16 * time.Minute)
		var want []refresh
		for at := minRewatch; at < 16*time.Minute; at += catchUp {
			want = append(want, refresh{"a", at}, refresh{"b", at + 100*time.Millisecond})
		}
		s.refreshed(t, want...)
		if streams < 16 {
			t.Errorf("%d streams in 16m, want the provider asked once a minute", streams)
		}
	})
}

func TestTheProviderOfAnEditedClassIsWatched(t *testing.T) {
	name := class.Name{Namespace: "ns", Name: "c"}
	tests := []struct {
		name string
		act  func(s *scene)
	}{
		{"when the rotator refreshes", func(s *scene) { s.watcher.classChanged(name) }},
		{"when kubelet calls", func(s *scene) { _, _ = s.front.Publish(context.Background(), volume.Volume{ID: "a"}) }},
		{"when it refreshes from outside", func(s *scene) { _, _ = s.front.Refresh(context.Background(), "a") }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			play(t, func(t *testing.T, s *scene) {
				watched := make(map[string]int)
				for _, name := range []string{"old", "new"} {
					s.tellers[name] = func(ctx context.Context, _ func(string)) error {
						watched[name]++
						<-ctx.Done()
						return ctx.Err()
					}
				}
				s.have("a", "old", "x", time.Hour)
				rec, _ := s.Get("a")
				rec.Class = name
				_ = s.Put(rec)
				s.start(t)
				s.uses = "new"
				test.act(s)
				test.act(s)
				pass(time.Hour)
				if diff := gocmp.Diff(map[string]int{"old": 1, "new": 1}, watched); diff != "" {
					t.Errorf("streams (-want +got):\n%s", diff)
				}
			})
		})
	}
}
