package coalesce_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/coalesce"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/pkg/secret"
)

// A kit is a Fake with one object behind a Group.
type kit struct {
	t     *testing.T
	fake  *providertest.Fake
	group *coalesce.Group
	p     provider.Provider
	value string // of the object
	hows  map[coalesce.How]int
	mu    sync.Mutex // guards hows
}

func newKit(t *testing.T) *kit {
	k := &kit{t: t, fake: &providertest.Fake{}, hows: map[coalesce.How]int{}}
	k.put()
	k.fake.Delay(time.Millisecond) // virtual: flights take time, so that others can join them
	k.group = coalesce.New(&coalesce.Options{Observe: func(_ string, how coalesce.How) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.hows[how]++
	}})
	t.Cleanup(func() { _ = k.group.Close() })
	k.p = k.group.Middleware()("p", k.fake)
	return k
}

// put gives the object a new value.
func (k *kit) put() {
	k.value = rand.Text()
	k.fake.Put("a", []byte(k.value))
}

// request returns a valid request with tokens; each change makes another one.
func (k *kit) request(changes ...func(*provider.Request)) *provider.Request {
	req := k.fake.Request(providertest.Object{Name: "a"})
	req.Pod.UID = rand.Text()
	req.Pod.Name = "pod-" + req.Pod.UID
	req.Dir = "/" + req.Pod.UID
	req.Tokens = provider.Tokens{"vault": {Value: secret.New([]byte(rand.Text())), Expires: time.Now().Add(time.Hour)}}
	req.Credentials = map[string]secret.Value{"user": secret.New([]byte("same"))}
	for _, change := range changes {
		change(req)
	}
	return req
}

// A reply is what one Fetch returned.
type reply struct {
	bundle *provider.Bundle
	err    error
}

// start begins one Fetch for each request, one after the other, and returns
// once all of them wait.
func (k *kit) start(ctx context.Context, reqs ...*provider.Request) <-chan reply {
	replies := make(chan reply, len(reqs))
	for _, req := range reqs {
		go func() {
			bundle, err := k.p.Fetch(ctx, req)
			replies <- reply{bundle, err}
		}()
		synctest.Wait()
	}
	return replies
}

// fetch makes one Fetch for each request at the same time, and returns their
// bundles in the order of their ends.
func (k *kit) fetch(reqs ...*provider.Request) []*provider.Bundle {
	k.t.Helper()
	replies := k.start(k.t.Context(), reqs...)
	var bundles []*provider.Bundle
	for range reqs {
		got := <-replies
		if got.err != nil {
			k.t.Fatalf("Fetch: %v", got.err)
		}
		bundles = append(bundles, got.bundle)
	}
	return bundles
}

// fetched checks how many calls the provider had so far.
func (k *kit) fetched(want int) {
	k.t.Helper()
	if got := k.fake.Fetches(); got != want {
		k.t.Errorf("the provider was called %d times, want %d", got, want)
	}
}

func (k *kit) holdsValue(bundle *provider.Bundle) {
	k.t.Helper()
	if len(bundle.Files) != 1 || string(bundle.Files[0].Data.Reveal()) != k.value {
		k.t.Errorf("the bundle %v does not hold the object's value", bundle)
	}
}

func TestWhatIsPartOfTheIdentity(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*provider.Request)
		calls  int
	}{
		{"another pod of the same account shares", func(*provider.Request) {}, 1},
		{"facts, which are of the account and the node, share", func(r *provider.Request) { r.Facts = provider.Facts{provider.NodeLabel("zone"): "a"} }, 1},
		{"another class does not share", func(r *provider.Request) { r.Class = "default/other" }, 2},
		{"another namespace does not share", func(r *provider.Request) { r.Pod.Namespace = "other" }, 2},
		{"another service account does not share", func(r *provider.Request) { r.Pod.ServiceAccount = "other" }, 2},
		{"another mode does not share", func(r *provider.Request) { r.Mode = 0o600 }, 2},
		{"another parameter does not share", func(r *provider.Request) { r.Parameters["x"] = "" }, 2},
		{"another value of a parameter does not share", func(r *provider.Request) { r.Parameters["objects"] += " " }, 2},
		{"other credentials do not share", func(r *provider.Request) { r.Credentials["user"] = secret.New([]byte("other")) }, 2},
		{"credentials of another name do not share", func(r *provider.Request) {
			r.Credentials = map[string]secret.Value{"admin": r.Credentials["user"]}
		}, 2},
		{"another audience does not share", func(r *provider.Request) { r.Tokens["aws"] = r.Tokens["vault"] }, 2},
		{"no tokens do not share with tokens", func(r *provider.Request) { r.Tokens = nil }, 2},
		{"an expired token does not share", func(r *provider.Request) {
			r.Tokens["vault"] = provider.Token{Value: r.Tokens["vault"].Value, Expires: time.Now()}
		}, 2},
		{"an unknown service account does not share", func(r *provider.Request) { r.Pod.ServiceAccount = "" }, 2},
		{"a held lease does not share", func(r *provider.Request) { r.Held.Lease.ID = "l" }, 2},
	} {
		for _, when := range []string{"in flight", "afterwards"} {
			t.Run(c.name+" "+when, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					k := newKit(t)
					one, other := k.request(), k.request(c.change)
					if when == "in flight" {
						k.fetch(one, other)
					} else {
						k.fetch(one)
						k.fetch(other)
					}
					k.fetched(c.calls)
				})
			})
		}
	}
}

func TestRequestsThatDoNotSayWhoTheyAreNeverShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		for _, change := range []func(*provider.Request){
			func(r *provider.Request) { r.Pod.ServiceAccount = "" },
			func(r *provider.Request) { r.Pod.Namespace = "" },
		} {
			before := k.fake.Fetches()
			k.fetch(k.request(change), k.request(change))
			k.fetched(before + 2)
		}
	})
}

func TestFieldsDoNotRunIntoEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		set := func(class, namespace string) func(*provider.Request) {
			return func(r *provider.Request) { r.Class, r.Pod.Namespace = class, namespace }
		}
		k.fetch(k.request(set("ab", "c")), k.request(set("a", "bc")))
		k.fetched(2)
	})
}

func TestProvidersOfDifferentNamesDoNotShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.fetch(k.request())
		k.p = k.group.Middleware()("q", k.fake)
		k.fetch(k.request())
		k.fetched(2)
	})
}

func TestTheSameNameSharesAcrossLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.fetch(k.request())
		k.p = k.group.Middleware()("p", k.fake)
		k.fetch(k.request())
		k.fetched(1)
	})
}

func TestAResultServesForItsTTL(t *testing.T) {
	for _, c := range []struct {
		name  string
		after time.Duration
		setup func(*kit, *provider.Request)
		calls int
	}{
		{"just before the end it serves", time.Second - 1, func(*kit, *provider.Request) {}, 1},
		{"at the end it is gone", time.Second, func(*kit, *provider.Request) {}, 2},
		{"it ends with a token", 100 * time.Millisecond, func(_ *kit, r *provider.Request) {
			r.Tokens["vault"] = provider.Token{Expires: time.Now().Add(100 * time.Millisecond)}
		}, 2},
		{"it ends when asking again is worth it", 100 * time.Millisecond, func(k *kit, _ *provider.Request) {
			k.fake.RefreshAfter(100 * time.Millisecond)
		}, 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKit(t)
				req := k.request()
				c.setup(k, req)
				k.holdsValue(k.fetch(req)[0])
				<-time.After(c.after)
				k.holdsValue(k.fetch(k.request())[0])
				k.fetched(c.calls)
			})
		})
	}
}

func TestAFlightWhoseTokenHasExpiredIsNotJoined(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.fake.Delay(time.Minute)
		req := k.request()
		req.Tokens["vault"] = provider.Token{Expires: time.Now().Add(time.Second)}
		first := k.start(t.Context(), req)
		<-time.After(time.Second)
		k.fetch(k.request())
		<-first
		k.fetched(2)
	})
}

func TestErrorsAreSharedInFlightOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.fake.Break()
		replies := k.start(t.Context(), k.request(), k.request(), k.request())
		for range 3 {
			if got := <-replies; provider.Reason(got.err) != "Unavailable" || got.bundle != nil {
				t.Errorf("Fetch = %v, %v, want the provider's error", got.bundle, got.err)
			}
		}
		k.fetched(1)
		k.fake.Repair()
		k.fetch(k.request())
		k.fetched(2)
	})
}

func TestHeldVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		current := provider.Held{Versions: k.fetch(k.request())[0].Versions}
		other := provider.Held{Versions: provider.Versions{"a": "older"}}
		hold := func(held provider.Held) *provider.Request {
			return k.request(func(r *provider.Request) { r.Held = held })
		}
		for _, c := range []struct {
			name      string
			one, next *provider.Request
			calls     int
			unchanged int
		}{
			{"a full fetch serves those who hold something", k.request(), hold(other), 1, 0},
			{"a fetch serves those who hold the same", hold(other), hold(other), 1, 0},
			{"unchanged serves those who hold the same", hold(current), hold(current), 1, 2},
			{"unchanged does not serve those who hold nothing", hold(current), k.request(), 2, 1},
			{"unchanged does not serve those who hold others", hold(current), hold(other), 2, 1},
		} {
			for _, when := range []string{"in flight", "afterwards"} {
				<-time.After(time.Minute)
				before := k.fake.Fetches()
				var bundles []*provider.Bundle
				if when == "in flight" {
					bundles = k.fetch(c.one, c.next)
				} else {
					bundles = append(k.fetch(c.one), k.fetch(c.next)...)
				}
				unchanged := 0
				for _, b := range bundles {
					if b.Unchanged {
						unchanged++
					} else {
						k.holdsValue(b)
					}
				}
				if calls := k.fake.Fetches() - before; calls != c.calls || unchanged != c.unchanged {
					t.Errorf("%s (%s): %d calls, %d unchanged; want %d and %d", c.name, when, calls, unchanged, c.calls, c.unchanged)
				}
			}
		}
	})
}

// provide is a provider made of a function, which also counts its calls.
type provide struct {
	mu    sync.Mutex
	calls []*provider.Request
	fetch func(ctx context.Context, req *provider.Request) (*provider.Bundle, error)
}

func (p *provide) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	p.mu.Lock()
	p.calls = append(p.calls, req)
	p.mu.Unlock()
	return p.fetch(ctx, req)
}

// TestPluginsThatWriteFilesThemselvesAreCalledForEachVolume: they answer with
// versions and no files, which says nothing to a volume they did not write to.
func TestPluginsThatWriteFilesThemselvesAreCalledForEachVolume(t *testing.T) {
	for name, versions := range map[string]provider.Versions{
		"with versions":         {"a": "1"},
		"with unknown versions": {"a": ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := newKit(t)
				writer := &provide{fetch: func(context.Context, *provider.Request) (*provider.Bundle, error) {
					<-time.After(time.Millisecond)
					return &provider.Bundle{Versions: maps.Clone(versions), Unchanged: true}, nil
				}}
				k.p = k.group.Middleware()("p", writer)
				held := provider.Held{Versions: provider.Versions{"a": ""}}
				for range 2 {
					k.fetch(k.request(), k.request(), k.request())
					k.fetch(k.request(func(r *provider.Request) { r.Held = held }), k.request(func(r *provider.Request) { r.Held = held }))
				}
				dirs := map[string]bool{}
				for _, call := range writer.calls {
					dirs[call.Dir] = true
				}
				if len(dirs) != 10 {
					t.Errorf("%d volumes were written, want each of 10", len(dirs))
				}
			})
		})
	}
}

func TestALeasedBundleIsNeverShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		lease := func() *provider.Request {
			return k.request(func(r *provider.Request) { r.Parameters[providertest.ParameterLease] = "database" })
		}
		leases := map[string]bool{}
		for _, b := range append(k.fetch(lease(), lease(), lease()), k.fetch(lease())...) {
			leases[b.Lease.ID] = true
		}
		if len(leases) != 4 || k.fake.Leases() != 4 {
			t.Errorf("4 volumes hold %d leases and the backend has %d, want 4", len(leases), k.fake.Leases())
		}
	})
}

func TestBundlesAreNotConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.fake.Expire("a")
		bundles := append(k.fetch(k.request(), k.request()), k.fetch(k.request())...)
		for i, b := range bundles {
			b.Warnings[0].Message = "changed"
			b.Files[0].Path = fmt.Sprint(i)
			b.Files = append(b.Files[:0], provider.File{Path: fmt.Sprint(i)})
			b.Versions["a"], b.Versions["b"] = "changed", "new"
		}
		again := k.fetch(k.request())[0]
		k.holdsValue(again)
		k.fetched(1)
		if again.Files[0].Path != "a" || len(again.Versions) != 1 || again.Versions["a"] == "changed" || len(again.Warnings) != 1 || again.Warnings[0].Message == "changed" {
			t.Errorf("a caller changed the bundle of another: %v", again)
		}
	})
}

func TestTheCallersRequestIsNotKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		seen := make(chan string, 1)
		k.p = k.group.Middleware()("p", &provide{fetch: func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			<-time.After(time.Second)
			seen <- req.Parameters["x"]
			return &provider.Bundle{Versions: provider.Versions{"a": "1"}}, nil
		}})
		ctx, cancel := context.WithCancel(t.Context())
		set := func(r *provider.Request) { r.Parameters["x"] = "before" }
		owner := k.request(set)
		gone, stays := k.start(ctx, owner), k.start(t.Context(), k.request(set))
		cancel()
		<-gone
		owner.Parameters["x"] = "after"
		<-stays
		if got := <-seen; got != "before" {
			t.Errorf("the provider sees the parameter %q, want %q", got, "before")
		}
	})
}

func TestObserveCountsEachRequestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.fetch(k.request(), k.request(), k.request())
		k.fetch(k.request())
		want := map[coalesce.How]int{coalesce.Fetched: 1, coalesce.Joined: 2, coalesce.Cached: 1}
		if diff := cmp.Diff(want, k.hows); diff != "" {
			t.Errorf("counters (-want +got):\n%s", diff)
		}
	})
}

func TestANegativeTTLSharesOnlyInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKit(t)
		k.p = coalesce.New(&coalesce.Options{TTL: -1}).Middleware()("p", k.fake)
		k.fetch(k.request(), k.request())
		k.fetched(1)
		k.fetch(k.request())
		k.fetched(2)
	})
}
