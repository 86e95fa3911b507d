package coalesce_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"
	"weak"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/coalesce"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/pkg/secret"
)

func TestEachWaiterHonoursItsOwnContext(t *testing.T) {
	for _, leaver := range []string{"the first", "the second"} {
		t.Run(leaver+" leaves and the other gets the answer", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKit(t)
				k.fake.Delay(time.Hour)
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				contexts := []context.Context{t.Context(), ctx}
				if leaver == "the first" {
					contexts = []context.Context{ctx, t.Context()}
				}
				began := time.Now()
				replies := []<-chan reply{k.start(contexts[0], k.request()), k.start(contexts[1], k.request())}
				if leaver == "the second" {
					replies[0], replies[1] = replies[1], replies[0]
				}
				got := <-replies[0]
				if !errors.Is(got.err, context.DeadlineExceeded) || !errors.Is(got.err, provider.ErrUnavailable) || time.Since(began) != time.Second {
					t.Errorf("the leaver has %v after %v, want its deadline after 1s", got.err, time.Since(began))
				}
				if got := <-replies[1]; got.err != nil {
					t.Errorf("the other has %v, want the answer", got.err)
				}
				k.fetched(1)
			})
		})
	}
}

func TestARequestThatHasEndedAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := k.p.Fetch(ended, k.request()); !errors.Is(err, context.Canceled) || !errors.Is(err, provider.ErrUnavailable) {
			t.Errorf("error %v, want one that wraps Canceled and ErrUnavailable", err)
		}
		k.fetched(0)
	})
}

func TestAFlightWithoutWaitersIsCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		cancelled := make(chan error, 1)
		k.p = k.group.Middleware()("p", &provide{fetch: func(ctx context.Context, _ *provider.Request) (*provider.Bundle, error) {
			select {
			case <-ctx.Done():
			case <-time.After(time.Hour):
			}
			cancelled <- ctx.Err()
			return nil, provider.ErrUnavailable
		}})
		one, cancelOne := context.WithCancel(t.Context())
		other, cancelOther := context.WithCancel(t.Context())
		k.start(one, k.request())
		k.start(other, k.request())
		cancelOne()
		synctest.Wait()
		if len(cancelled) > 0 {
			t.Error("the fetch ended while somebody waited for it")
		}
		cancelOther()
		if err := <-cancelled; !errors.Is(err, context.Canceled) {
			t.Error("the fetch goes on though nobody waits for it")
		}
	})
}

func TestTheTimerLeavesFlightsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.fetch(k.request(func(r *provider.Request) { r.Class = "default/ended" }))
		k.fake.Delay(time.Minute)
		flying := k.start(t.Context(), k.request(func(r *provider.Request) { r.Tokens = nil }))
		<-time.After(2 * time.Second) // the result of the other class expires
		k.fetch(k.request(func(r *provider.Request) { r.Tokens = nil }))
		<-flying
		k.fetched(2)
	})
}

func TestACancelledFlightIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		stubborn := make(chan struct{})
		p := &provide{fetch: func(context.Context, *provider.Request) (*provider.Bundle, error) {
			<-stubborn // ignores its context
			return &provider.Bundle{Versions: provider.Versions{"a": "1"}}, nil
		}}
		k.p = k.group.Middleware()("p", p)
		ctx, cancel := context.WithCancel(t.Context())
		gone := k.start(ctx, k.request())
		cancel()
		if got := <-gone; !errors.Is(got.err, context.Canceled) {
			t.Errorf("a provider that ignores its context blocks its caller: %v", got.err)
		}
		next := k.start(t.Context(), k.request())
		close(stubborn)
		if got := <-next; got.err != nil {
			t.Errorf("Fetch: %v", got.err)
		}
		if len(p.calls) != 2 {
			t.Errorf("%d calls, want 2: nobody joins a flight that was cancelled", len(p.calls))
		}
	})
}

func TestValuesOfTheFirstContextReachTheProvider(t *testing.T) {
	type contextKey struct{}
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.p = k.group.Middleware()("p", &provide{fetch: func(ctx context.Context, _ *provider.Request) (*provider.Bundle, error) {
			if got := ctx.Value(contextKey{}); got != "trace" {
				t.Errorf("the context's value is %v, want %q", got, "trace")
			}
			return &provider.Bundle{Versions: provider.Versions{"a": "1"}}, nil
		}})
		_, _ = k.p.Fetch(context.WithValue(t.Context(), contextKey{}, "trace"), k.request())
	})
}

func TestALeaseThatNobodyTookIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.p = k.group.Middleware()("p", &deaf{k.fake})
		k.fake.Delay(time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		gone := k.start(ctx, k.request(func(r *provider.Request) { r.Parameters[providertest.ParameterLease] = "database" }))
		cancel()
		<-gone
		<-time.After(time.Minute)
		if got, leases := k.fake.Releases(), k.fake.Leases(); got != 1 || leases != 0 {
			t.Errorf("%d releases and %d leases left, want 1 and 0", got, leases)
		}
	})
}

func TestALeaseThatNobodyTookIsLeftToWhoeverGivesLeasesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fake, given := &providertest.Fake{}, map[string]provider.Lease{}
		group := coalesce.New(&coalesce.Options{GiveBack: func(name string, lease provider.Lease) { given[name] = lease }})
		fake.Delay(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		req := fake.Request()
		req.Parameters[providertest.ParameterLease] = "database"
		if _, err := group.Middleware()("p", &deaf{fake}).Fetch(ctx, req); err == nil {
			t.Fatal("Fetch succeeded after its context had ended")
		}
		if err := group.Close(); err != nil {
			t.Fatal(err)
		}
		if given["p"].ID == "" || fake.Leases() != 1 || fake.Releases() != 0 {
			t.Errorf("given back: %v, with %d leases and %d releases; want the one lease, untouched", given, fake.Leases(), fake.Releases())
		}
	})
}

func TestALeaseThatWasRenewedForNobodyStaysWithItsVolume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.p = k.group.Middleware()("p", &deaf{k.fake})
		lease := func(r *provider.Request) { r.Parameters[providertest.ParameterLease] = "database" }
		first := k.fetch(k.request(lease))[0]
		ctx, cancel := context.WithCancel(t.Context())
		gone := k.start(ctx, k.request(lease, func(r *provider.Request) {
			r.Held = provider.Held{Versions: first.Versions, Lease: first.Lease}
		}))
		cancel()
		<-gone
		<-time.After(time.Minute)
		if k.fake.Leases() != 1 || k.fake.Releases() != 0 {
			t.Errorf("%d leases and %d releases, want 1 and 0", k.fake.Leases(), k.fake.Releases())
		}
	})
}

func TestALeaseWhoseOwnerLeftGoesToOneOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.fake.Delay(time.Second)
		lease := func(r *provider.Request) { r.Parameters[providertest.ParameterLease] = "database" }
		ctx, cancel := context.WithCancel(t.Context())
		gone := k.start(ctx, k.request(lease))
		others := k.start(t.Context(), k.request(lease), k.request(lease))
		cancel()
		<-gone
		if one, two := <-others, <-others; one.bundle.Lease.ID == two.bundle.Lease.ID {
			t.Errorf("two volumes share the lease %q", one.bundle.Lease.ID)
		}
		if leases := k.fake.Leases(); leases != 2 || k.fake.Releases() != 0 {
			t.Errorf("%d leases, want 2: one for each volume that is left", leases)
		}
	})
}

// TestNoLeaseIsLostWhenTheAnswerAndTheEndMeet lets both come at one moment.
func TestNoLeaseIsLostWhenTheAnswerAndTheEndMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.p = k.group.Middleware()("p", &deaf{k.fake})
		k.fake.Delay(time.Second)
		taken := 0
		for range 200 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := k.p.Fetch(ctx, k.request(func(r *provider.Request) { r.Parameters[providertest.ParameterLease] = "database" }))
			cancel()
			if err == nil {
				taken++
			}
		}
		<-time.After(time.Minute)
		if got := k.fake.Leases(); got != taken {
			t.Errorf("%d volumes have leases and the backend has %d", taken, got)
		}
	})
}

// TestWhatAnOwnerThatLeftHadWrittenIsNoAnswerToOthers: the files went into
// its volume.
func TestWhatAnOwnerThatLeftHadWrittenIsNoAnswerToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		writer := &provide{fetch: func(context.Context, *provider.Request) (*provider.Bundle, error) {
			<-time.After(time.Second)
			return &provider.Bundle{Versions: provider.Versions{"a": "1"}, Unchanged: true}, nil
		}}
		k.p = k.group.Middleware()("p", writer)
		ctx, cancel := context.WithCancel(t.Context())
		gone, stays := k.start(ctx, k.request()), k.start(t.Context(), k.request())
		cancel()
		<-gone
		<-stays
		if len(writer.calls) != 2 || writer.calls[0].Dir == writer.calls[1].Dir {
			t.Errorf("%d calls, want one for each volume", len(writer.calls))
		}
	})
}

// deaf fetches without listening to its context.
type deaf struct{ *providertest.Fake }

func (d *deaf) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	return d.Fake.Fetch(context.WithoutCancel(ctx), req)
}

func TestAPanicIsAnErrorOfAllWaiters(t *testing.T) {
	for name, fail := range map[string]func(){
		"a panic":                              func() { panic("c4n4ry") },
		"the end of its goroutine":             runtime.Goexit,
		"neither a bundle nor an error at all": func() {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKit(t)
				k.p = k.group.Middleware()("p", &provide{fetch: func(context.Context, *provider.Request) (*provider.Bundle, error) {
					<-time.After(time.Second)
					fail()
					return nil, nil
				}})
				replies := k.start(t.Context(), k.request(), k.request())
				for range 2 {
					got := <-replies
					if !errors.Is(got.err, provider.ErrUnavailable) || strings.Contains(got.err.Error(), "c4n4ry") || !strings.Contains(got.err.Error(), `provider "p"`) {
						t.Errorf("error %v, want one that names the provider, wraps ErrUnavailable and does not quote the panic", got.err)
					}
				}
			})
		})
	}
}

func TestAChangeDropsResultsAndDetachesFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		changed := make(chan string)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		notifier, ok := provider.As[provider.Notifier](k.p)
		if !ok {
			t.Fatal("the middleware is no Notifier")
		}
		go func() { ended <- notifier.Changes(ctx, func(id string) { changed <- id }) }()
		<-changed // watching has begun

		k.fetch(k.request())
		k.fake.Delay(time.Minute)
		before := k.start(t.Context(), k.request(func(r *provider.Request) { r.Class = "default/flying" }))
		k.put()
		if got := <-changed; got != "a" {
			t.Errorf("told of %q, want %q", got, "a")
		}
		k.fake.Delay(time.Millisecond)
		k.holdsValue(k.fetch(k.request())[0])
		k.fetch(k.request(func(r *provider.Request) { r.Class = "default/flying" }))
		k.fetched(4)
		if got := <-before; got.err != nil {
			t.Errorf("a flight begun before the change: %v", got.err)
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Changes returned %v, want the end of its context", err)
		}
	})
}

func TestAChangeOfOneProviderLeavesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		other := k.group.Middleware()("other", &providertest.Fake{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- other.(provider.Notifier).Changes(ctx, func(string) {}) }()
		synctest.Wait()
		k.fetch(k.request())
		other.(interface{ Unwrap() provider.Provider }).Unwrap().(*providertest.Fake).Put("a", nil)
		synctest.Wait()
		k.fetch(k.request())
		k.fetched(1)
		cancel()
		<-ended
	})
}

func TestWithoutANotifierChangesAreUnsupported(t *testing.T) {
	p := coalesce.New(nil).Middleware()("p", &provide{})
	if err := p.(provider.Notifier).Changes(t.Context(), nil); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Changes = %v, want an error that wraps ErrUnsupported", err)
	}
}

// behind is a Backend whose provider is behind a Group.
type behind struct {
	providertest.Backend
	p provider.Provider
}

func (b behind) Provider() provider.Provider { return b.p }

func TestSharedProvidersKeepTheContract(t *testing.T) {
	providertest.Run(t, func(testing.TB) providertest.Backend {
		fake := new(providertest.Fake)
		// The suite expects new values at once, so only flights are shared.
		return behind{fake.Backend(), coalesce.New(&coalesce.Options{TTL: -1}).Middleware()("p", fake)}
	})
}

func TestOptionalInterfacesStayReachable(t *testing.T) {
	p := coalesce.New(nil).Middleware()("p", &providertest.Fake{})
	if _, ok := provider.As[provider.Releaser](p); !ok {
		t.Error("the Releaser behind the middleware is not reachable")
	}
}

// TestPlaintextLeavesMemory looks at whether the bytes of a result can still
// be reached, by way of a value that only they keep alive.
func TestPlaintextLeavesMemory(t *testing.T) {
	for name, end := range map[string]func(*kit){
		"at the TTL":  func(*kit) { <-time.After(1100 * time.Millisecond); synctest.Wait() },
		"at Close":    func(k *kit) { _ = k.group.Close() },
		"at a change": func(k *kit) { k.fake.Put("a", nil); synctest.Wait() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKit(t)
				var plain weak.Pointer[byte]
				p := &provide{fetch: func(context.Context, *provider.Request) (*provider.Bundle, error) {
					data := secret.New(make([]byte, 32))
					plain = weak.Make(unsafe.SliceData(data.Reveal()))
					return &provider.Bundle{
						Files:    []provider.File{{Path: "a", Data: data}},
						Versions: provider.Versions{"a": "1"},
					}, nil
				}}
				k.p = k.group.Middleware()("p", &notifying{provide: p, fake: k.fake})
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- k.p.(provider.Notifier).Changes(ctx, func(string) {}) }()
				synctest.Wait()

				k.fetch(k.request())
				p.calls = nil
				runtime.GC()
				if plain.Value() == nil {
					t.Error("the result is gone before its time")
				}
				end(k)
				runtime.GC()
				if plain.Value() != nil {
					t.Error("the result is still in memory")
				}
				cancel()
				<-ended
				runtime.KeepAlive(k.group)
			})
		})
	}
}

// notifying fetches with one provider and tells of the changes of another.
type notifying struct {
	*provide
	fake *providertest.Fake
}

func (n *notifying) Changes(ctx context.Context, changed func(string)) error {
	return n.fake.Changes(ctx, changed)
}

func TestAThousandRequestsOfTenIdentitiesAreTenFetches(t *testing.T) {
	const requests, identities = 1000, 10
	fake := &providertest.Fake{}
	fake.Put("a", []byte(rand.Text()))
	waiting := fake.Hang()
	var joined sync.WaitGroup
	group := coalesce.New(&coalesce.Options{TTL: time.Minute}) // however slow the machine is
	p := group.Middleware()("p", fake)
	for i := range requests {
		joined.Go(func() {
			req := fake.Request(providertest.Object{Name: "a"})
			req.Pod.ServiceAccount = fmt.Sprint(i % identities)
			bundle, err := p.Fetch(t.Context(), req)
			if err != nil || len(bundle.Files) != 1 {
				t.Errorf("Fetch = %v, %v, want one file", bundle, err)
			}
		})
	}
	<-waiting
	fake.Resume()
	joined.Wait()
	if err := group.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if got := fake.Fetches(); got != identities {
		t.Errorf("%d fetches, want %d", got, identities)
	}
}

// still answers at once with the same bundle.
type still struct{ bundle *provider.Bundle }

func (s still) Fetch(context.Context, *provider.Request) (*provider.Bundle, error) {
	return s.bundle, nil
}

func BenchmarkFetch(b *testing.B) {
	fake := &providertest.Fake{}
	bundle := &provider.Bundle{
		Files:    []provider.File{{Path: "a", Data: secret.New([]byte("value"))}},
		Versions: provider.Versions{"a": "1"},
	}
	for _, c := range []struct {
		name string
		ttl  time.Duration
	}{{"hit", time.Hour}, {"miss", -1}} {
		b.Run(c.name, func(b *testing.B) {
			group := coalesce.New(&coalesce.Options{TTL: c.ttl})
			defer func() { _ = group.Close() }()
			p := group.Middleware()("p", still{bundle})
			req := fake.Request(providertest.Object{Name: "a"})
			b.ReportAllocs()
			for b.Loop() {
				if _, err := p.Fetch(b.Context(), req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
