package limit_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/limit"
)

func TestOneNamespaceTakesHalfOfThePlaces(t *testing.T) {
	for name, c := range map[string]struct {
		opts  limit.Options
		held  provider.Held
		begin []string
	}{
		"of four, two":               {limit.Options{Concurrent: 4, Reserved: 1}, provider.Held{}, []string{"a/1", "a/2", "b/1", "b/2"}},
		"of five, three":             {limit.Options{Concurrent: 5, Reserved: 1}, provider.Held{}, []string{"a/1", "a/2", "a/3", "b/1", "b/2"}},
		"of one, that one":           {limit.Options{Concurrent: 1}, provider.Held{}, []string{"a/1"}},
		"of six, three":              {limit.Options{Concurrent: 6, Reserved: 1}, provider.Held{}, []string{"a/1", "a/2", "a/3", "b/1", "b/2", "c/1"}},
		"refreshes are no exception": {limit.Options{Concurrent: 4, Reserved: 1}, refreshing, []string{"a/1", "a/2", "b/1"}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend()
				p := limit.New(&c.opts).Middleware()("p", b)
				calls(p, c.held, "a/1", "a/2", "a/3", "a/4", "b/1", "b/2", "c/1")
				mustBegin(t, b, c.begin...)
				<-time.After(90 * time.Second) // all end, and with them their goroutines
			})
		})
	}
}

func TestFirstPublishesAndRefreshesOfANamespaceShareItsHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		p := limit.New(&limit.Options{Concurrent: 4, Reserved: 1}).Middleware()("p", b)
		calls(p, refreshing, "a/refresh")
		calls(p, provider.Held{}, "a/1", "a/2")
		mustBegin(t, b, "a/refresh", "a/1")
		b.end("a/refresh", nil)
		mustBegin(t, b, "a/2")
		b.end("a/1", nil)
		b.end("a/2", nil)
	})
}

func TestWhoHasFewestPlacesIsNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend()
		p := limit.New(&limit.Options{Concurrent: 4}).Middleware()("p", b)
		calls(p, provider.Held{}, "a/1", "a/2", "b/1", "b/2") // all places
		calls(p, provider.Held{}, "a/3", "b/3", "b/4", "c/1", "d/1", "c/2")
		mustBegin(t, b, "a/1", "a/2", "b/1", "b/2")
		for _, step := range []struct{ end, begins string }{
			{"a/1", "c/1"}, // a has waited longer, but has one
			{"a/2", "a/3"}, // a and d have none, and a has waited longer
			{"b/1", "d/1"},
			{"b/2", "b/3"},
			{"c/1", "c/2"}, // b has waited longer, but has one
			{"c/2", "b/4"},
		} {
			b.end(step.end, nil)
			mustBegin(t, b, step.begins)
		}
		for _, class := range []string{"a/3", "d/1", "b/3", "b/4"} {
			b.end(class, nil)
		}
	})
}

// tarpit never answers the namespace "stuck", and the others at once.
type tarpit struct{}

func (tarpit) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	if req.Pod.Namespace == "stuck" {
		<-ctx.Done()
		return nil, provider.ErrUnavailable
	}
	return &provider.Bundle{Versions: provider.Versions{"a": "1"}}, nil
}

func TestAStoreThatNeverAnswersStopsOnlyItsOwnNamespace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := limit.New(nil).Middleware()("p", tarpit{})
		ctx, cancel := context.WithCancel(t.Context())
		for range 40 { // pods, which kubelet tries again for ever
			go func() {
				for ctx.Err() == nil {
					_, _ = p.Fetch(ctx, &provider.Request{Pod: provider.Pod{Namespace: "stuck"}})
				}
			}()
		}
		for range 3 {
			<-time.After(time.Minute)
			began := time.Now()
			for _, held := range []provider.Held{{}, refreshing} {
				if _, err := p.Fetch(ctx, &provider.Request{Pod: provider.Pod{Namespace: "other"}, Held: held}); err != nil {
					t.Errorf("Fetch of another namespace: %v", err)
				}
			}
			if waited := time.Since(began); waited != 0 {
				t.Errorf("another namespace waited %v", waited)
			}
		}
		cancel()
	})
}
