package limit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/limit"
	"github.com/keymount/keymount/pkg/provider/providertest"
)

// A backend notes which calls run and answers when told.
type backend struct {
	mu      sync.Mutex
	running []string
	answer  map[string]chan error // by class
}

func newBackend() *backend { return &backend{answer: map[string]chan error{}} }

func (b *backend) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	b.mu.Lock()
	b.running = append(b.running, req.Class)
	answer := make(chan error, 1)
	b.answer[req.Class] = answer
	b.mu.Unlock()
	select {
	case err := <-answer:
		if err != nil {
			return nil, err
		}
		return &provider.Bundle{Versions: provider.Versions{"a": "1"}}, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("backend: %w: %w", provider.ErrUnavailable, ctx.Err())
	}
}

func (b *backend) Release(context.Context, provider.Lease) error { return nil }

// end lets the call of that class return.
func (b *backend) end(class string, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	select {
	case b.answer[class] <- err:
	default: // it has not begun, as the test has told
	}
}

// begun returns the classes whose calls began, in order, and forgets them.
func (b *backend) begun() []string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	begun := b.running
	b.running = nil
	return begun
}

var refreshing = provider.Held{Versions: provider.Versions{"a": "1"}}

// calls starts one call per class and waits until each runs or waits; the
// result arrives on the channel. A class like "shop/c" is of that namespace,
// one like "c" of a namespace of its own.
func calls(p provider.Provider, held provider.Held, classes ...string) <-chan error {
	results := make(chan error, len(classes))
	for _, class := range classes {
		namespace, _, _ := strings.Cut(class, "/")
		go func() {
			_, err := p.Fetch(context.Background(), &provider.Request{Class: class, Held: held, Pod: provider.Pod{Namespace: namespace}})
			results <- err
		}()
		synctest.Wait()
	}
	return results
}

func mustBegin(t *testing.T, b *backend, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, b.begun()); diff != "" {
		t.Errorf("calls that began (-want +got):\n%s", diff)
	}
}

func TestRefreshesLeavePlacesToFirstPublishes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		p := limit.New(&limit.Options{Concurrent: 3, Reserved: 1}).Middleware()("p", b)
		calls(p, refreshing, "r1", "r2", "r3", "r4")
		mustBegin(t, b, "r1", "r2")
		calls(p, provider.Held{}, "f1", "f2")
		mustBegin(t, b, "f1")
		b.end("r1", nil)
		mustBegin(t, b, "f2") // a pod that waits comes before r3
		b.end("f1", nil)
		mustBegin(t, b, "r3")
		b.end("r2", nil)
		mustBegin(t, b, "r4")
		for _, class := range []string{"f2", "r3", "r4"} {
			b.end(class, nil)
		}
	})
}

func TestALeaseAloneIsARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		p := limit.New(&limit.Options{Concurrent: 2, Reserved: 1}).Middleware()("p", b)
		calls(p, provider.Held{Lease: provider.Lease{ID: "l"}}, "r1", "r2")
		mustBegin(t, b, "r1")
		b.end("r1", nil)
		mustBegin(t, b, "r2")
		b.end("r2", nil)
	})
}

func TestWaitersOfAKindTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		p := limit.New(&limit.Options{Concurrent: 1}).Middleware()("p", b)
		order := []string{"f1", "f2", "f3", "f4", "f5"}
		calls(p, provider.Held{}, order...)
		for _, class := range order {
			mustBegin(t, b, class)
			b.end(class, nil)
		}
	})
}

func TestDefaultsAreSixteenPlacesAndFourReserved(t *testing.T) {
	for name, c := range map[string]struct {
		held provider.Held
		want int
	}{
		"first publishes take all places": {provider.Held{}, 16},
		"refreshes take all but four":     {refreshing, 12},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				p := limit.New(nil).Middleware()("p", b)
				classes := make([]string, 20)
				for i := range classes {
					classes[i] = fmt.Sprint(i)
				}
				results := calls(p, c.held, classes...)
				if got := len(b.begun()); got != c.want {
					t.Errorf("%d calls run, want %d", got, c.want)
				}
				began := time.Now()
				for range classes {
					if err := <-results; !errors.Is(err, provider.ErrUnavailable) {
						t.Errorf("error %v, want one that wraps ErrUnavailable", err)
					}
				}
				if got := time.Since(began); got != 90*time.Second {
					t.Errorf("calls ended after %v, want 90s", got)
				}
			})
		})
	}
}

func TestStateIsKeptByNameAcrossWrappings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		wrap := limit.New(&limit.Options{Concurrent: 1}).Middleware()
		calls(wrap("p", b), provider.Held{}, "p1")
		calls(wrap("p", b), provider.Held{}, "p2")
		calls(wrap("q", b), provider.Held{}, "q1")
		mustBegin(t, b, "p1", "q1")
		b.end("p1", nil)
		b.end("q1", nil)
		mustBegin(t, b, "p2")
		b.end("p2", nil)
	})
}

func TestErrors(t *testing.T) {
	canceled := errors.New("the pod is gone")
	for _, c := range []struct {
		name  string
		after func(b *backend, cancel context.CancelCauseFunc)
		want  string
		wraps []error
	}{
		{"our deadline says so", func(*backend, context.CancelCauseFunc) {},
			`provider "p" did not answer within 5s: unavailable`, []error{provider.ErrUnavailable}},
		{"the caller's end is not our deadline", func(_ *backend, cancel context.CancelCauseFunc) { cancel(canceled) },
			"backend: unavailable: context canceled", []error{provider.ErrUnavailable, context.Canceled}},
		{"the provider's own timer for our deadline may be a little early", func(b *backend, _ context.CancelCauseFunc) {
			time.Sleep(4950 * time.Millisecond)
			b.end("c", provider.ErrUnavailable)
		}, `provider "p" did not answer within 5s: unavailable`, []error{provider.ErrUnavailable}},
		{"an outage well before our deadline is the provider's", func(b *backend, _ context.CancelCauseFunc) {
			time.Sleep(4800 * time.Millisecond)
			b.end("c", provider.ErrUnavailable)
		}, "unavailable", []error{provider.ErrUnavailable}},
		{"a provider's error passes", func(b *backend, _ context.CancelCauseFunc) { b.end("c", provider.ErrDenied) },
			"denied", []error{provider.ErrDenied}},
		{"success passes", func(b *backend, _ context.CancelCauseFunc) { b.end("c", nil) }, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				p := limit.New(&limit.Options{Timeout: 5 * time.Second}).Middleware()("p", b)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				result := make(chan error)
				go func() {
					_, err := p.Fetch(ctx, &provider.Request{Class: "c"})
					result <- err
				}()
				synctest.Wait()
				c.after(b, cancel)
				err := <-result
				if got := message(err); got != c.want {
					t.Errorf("error %q, want %q", got, c.want)
				}
				for _, want := range c.wraps {
					if !errors.Is(err, want) {
						t.Errorf("error %v does not wrap %v", err, want)
					}
				}
			})
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// late answers with its error only after the context has ended.
type late struct{ err error }

func (l late) Fetch(ctx context.Context, _ *provider.Request) (*provider.Bundle, error) {
	<-ctx.Done()
	return nil, l.err
}

func TestALateAnswerIsStillAnAnswer(t *testing.T) {
	for _, sentinel := range []error{provider.ErrInvalid, provider.ErrNotFound, provider.ErrDenied} {
		synctest.Test(t, func(t *testing.T) {
			p := limit.New(nil).Middleware()("p", late{sentinel})
			if _, err := p.Fetch(t.Context(), &provider.Request{}); !errors.Is(err, sentinel) {
				t.Errorf("error %v, want one that wraps %v", err, sentinel)
			}
		})
	}
}

func TestAWaiterThatGivesUpTakesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		p := limit.New(&limit.Options{Concurrent: 1}).Middleware()("p", b)
		calls(p, provider.Held{}, "running")
		mustBegin(t, b, "running")
		ctx, cancel := context.WithCancel(t.Context())
		gaveUp := make(chan error)
		go func() {
			_, err := p.Fetch(ctx, &provider.Request{Class: "impatient"})
			gaveUp <- err
		}()
		synctest.Wait()
		cancel()
		err := <-gaveUp
		if !errors.Is(err, provider.ErrUnavailable) || !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), `provider "p" is busy`) {
			t.Errorf("error %v, want one that says busy and wraps ErrUnavailable and Canceled", err)
		}
		calls(p, provider.Held{}, "next")
		b.end("running", nil)
		mustBegin(t, b, "next")
		b.end("next", nil)
	})
}

func TestAPlaceThatIsGivenAndRefusedAtOnceIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limit.New(&limit.Options{Concurrent: 1}).Middleware()("p", fetchFunc(func() {}))
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		for range 100 { // the turn and the end are both there: either may be seen first
			_, _ = p.Fetch(ended, &provider.Request{})
		}
		if _, err := p.Fetch(t.Context(), &provider.Request{}); err != nil {
			t.Errorf("Fetch: %v", err)
		}
	})
}

func TestRefreshesHaveAPlaceHoweverFewThereAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limit.New(&limit.Options{Concurrent: 1, Reserved: 7}).Middleware()("p", fetchFunc(func() {}))
		if _, err := p.Fetch(t.Context(), &provider.Request{Held: refreshing}); err != nil {
			t.Errorf("Fetch: %v", err)
		}
	})
}

func TestTheDeadlineCoversTheWaitForAPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		g := limit.New(&limit.Options{Concurrent: 1, Timeout: time.Minute}).Middleware()
		running := calls(g("p", stubborn{}), provider.Held{}, "running")
		err := <-calls(g("p", b), provider.Held{}, "waiting")
		want := `provider "p" is busy: none of its 1 places was free within 1m0s (namespace "waiting" may take 1 of them): unavailable`
		if message(err) != want || !errors.Is(err, provider.ErrUnavailable) {
			t.Errorf("error %q, want %q", err, want)
		}
		<-running
	})
}

// stubborn answers after two minutes, whatever its context says.
type stubborn struct{}

func (stubborn) Fetch(context.Context, *provider.Request) (*provider.Bundle, error) {
	<-time.After(2 * time.Minute)
	return &provider.Bundle{Versions: provider.Versions{"a": "1"}}, nil
}

// behind is a Backend whose provider is behind a Group.
type behind struct {
	providertest.Backend
	p provider.Provider
}

func (b behind) Provider() provider.Provider { return b.p }

func TestLimitedProvidersKeepTheContract(t *testing.T) {
	providertest.Run(t, func(testing.TB) providertest.Backend {
		fake := new(providertest.Fake)
		return behind{fake.Backend(), limit.New(nil).Middleware()("p", fake)}
	})
}

func TestOptionalInterfacesStayReachable(t *testing.T) {
	p := limit.New(nil).Middleware()("p", newBackend())
	if _, ok := provider.As[provider.Releaser](p); !ok {
		t.Error("the Releaser behind the limit is not reachable")
	}
}

func TestManyCallsKeepTheLimit(t *testing.T) {
	const places = 8
	var mu sync.Mutex
	running, most := 0, 0
	p := limit.New(&limit.Options{Concurrent: places, Reserved: 2}).Middleware()("p", fetchFunc(func() {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		defer func() {
			mu.Lock()
			defer mu.Unlock()
			running--
		}()
	}))
	var all sync.WaitGroup
	for i := range 500 {
		all.Go(func() {
			req := &provider.Request{Pod: provider.Pod{Namespace: fmt.Sprint(i % 7)}}
			if i%2 == 0 {
				req.Held = refreshing
			}
			if _, err := p.Fetch(t.Context(), req); err != nil {
				t.Errorf("Fetch: %v", err)
			}
		})
	}
	all.Wait()
	if most > places || running != 0 {
		t.Errorf("%d calls ran at once and %d still do, want at most %d and none", most, running, places)
	}
}

type fetchFunc func()

func (f fetchFunc) Fetch(context.Context, *provider.Request) (*provider.Bundle, error) {
	f()
	return &provider.Bundle{Versions: provider.Versions{"a": "1"}}, nil
}
