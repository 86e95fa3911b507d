package coalesce_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/coalesce"
	"github.com/keymount/keymount/pkg/provider/providertest"
)

func TestCloseEndsTheFetchesInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.fake.Delay(time.Hour)
		unshareable := func(r *provider.Request) { r.Pod.ServiceAccount = "" }
		flying := k.start(t.Context(), k.request(), k.request(), k.request(unshareable))
		began := time.Now()
		for range 2 {
			if err := k.group.Close(); err != nil || time.Since(began) != 0 {
				t.Errorf("Close = %v after %v, want none at once", err, time.Since(began))
			}
		}
		for range 3 {
			if got := <-flying; !errors.Is(got.err, provider.ErrUnavailable) || time.Since(began) != 0 {
				t.Errorf("a fetch in flight: %v after %v, want ErrUnavailable at once", got.err, time.Since(began))
			}
		}
	})
}

func TestAClosedGroupServesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.fetch(k.request())
		_ = k.group.Close()
		for name, req := range map[string]*provider.Request{
			"with a result before Close": k.request(),
			"without":                    k.request(func(r *provider.Request) { r.Class = "default/other" }),
			"which is never shared":      k.request(func(r *provider.Request) { r.Pod.ServiceAccount = "" }),
		} {
			if bundle, err := k.p.Fetch(t.Context(), req); !errors.Is(err, provider.ErrUnavailable) || bundle != nil {
				t.Errorf("a fetch %s: %v, %v, want ErrUnavailable", name, bundle, err)
			}
		}
		k.fetched(1)
	})
}

func TestCloseCountsWhatItLeavesBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		stubborn := make(chan struct{})
		p := &provide{fetch: func(context.Context, *provider.Request) (*provider.Bundle, error) {
			<-stubborn // ignores its context
			return &provider.Bundle{Versions: provider.Versions{"a": "1"}}, nil
		}}
		k.fake.Delay(time.Hour)
		polite := k.start(t.Context(), k.request())
		k.p = k.group.Middleware()("stubborn", p)
		flying := k.start(t.Context(), k.request(), k.request(func(r *provider.Request) { r.Class = "default/other" }))
		began := time.Now()
		const want = "fetches that go on 2s after they were cancelled: 2 (of stubborn)"
		if err := k.group.Close(); err == nil || err.Error() != want || time.Since(began) != 2*time.Second {
			t.Errorf("Close = %v after %v, want %q after 2s", err, time.Since(began), want)
		}
		if got := <-polite; !errors.Is(got.err, provider.ErrUnavailable) {
			t.Errorf("the fetch of a provider that honours its context: %v, want ErrUnavailable", got.err)
		}
		close(stubborn)
		for range 2 {
			if got := <-flying; got.err != nil {
				t.Errorf("a fetch that ended after all: %v, want its answer", got.err)
			}
		}
		if err := k.group.Close(); err != nil {
			t.Errorf("Close once all have ended: %v", err)
		}
	})
}

// slowReleaser takes a second to give a lease back.
type slowReleaser struct{ *deaf }

func (s slowReleaser) Release(ctx context.Context, lease provider.Lease) error {
	<-time.After(time.Second)
	return s.deaf.Release(ctx, lease)
}

func TestCloseWaitsUntilLeasesThatNobodyTookAreGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.p = k.group.Middleware()("p", slowReleaser{&deaf{k.fake}})
		k.fake.Delay(time.Second / 10)
		ctx, cancel := context.WithCancel(t.Context())
		gone := k.start(ctx, k.request(func(r *provider.Request) { r.Parameters[providertest.ParameterLease] = "database" }))
		cancel()
		<-gone
		if err := k.group.Close(); err != nil || k.fake.Leases() != 0 || k.fake.Releases() != 1 {
			t.Errorf("Close = %v with %d leases left and %d given back, want none, 0 and 1", err, k.fake.Leases(), k.fake.Releases())
		}
	})
}

func TestManyFetchesAndACloseRace(t *testing.T) {
	fake := &providertest.Fake{}
	fake.Put("a", nil)
	group := coalesce.New(nil)
	p := group.Middleware()("p", fake)
	ended := make(chan error)
	const requests = 200
	for range requests {
		go func() {
			_, err := p.Fetch(t.Context(), fake.Request(providertest.Object{Name: "a"}))
			ended <- err
		}()
	}
	if err := group.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	after := fake.Fetches()
	for range requests {
		if err := <-ended; err != nil && !errors.Is(err, provider.ErrUnavailable) {
			t.Errorf("Fetch: %v, want none or ErrUnavailable", err)
		}
	}
	if got := fake.Fetches(); got != after {
		t.Errorf("%d fetches began after Close", got-after)
	}
}
