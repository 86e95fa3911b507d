package kube

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

const (
	role     = provider.Fact("serviceaccount/example.com/role")
	audience = provider.Fact("serviceaccount/example.com/audience")
	region   = provider.Fact("node/topology.kubernetes.io/region")

	getAccount, watchAccount = "GET " + accounts + "sa", "WATCH " + accounts
	getNode                  = "GET " + nodes + "n"
)

// A curious provider needs facts, and says what they are.
type curious struct {
	facts []provider.Fact

	mu      sync.Mutex
	fetches int
	got     provider.Facts // of the last fetch that succeeded
}

func (c *curious) Fetch(_ context.Context, req *provider.Request) (*provider.Bundle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fetches++
	if err := req.Facts.Known(c.facts...); err != nil {
		return nil, fmt.Errorf("find the region: %w", err)
	}
	c.got = req.Facts
	return &provider.Bundle{Versions: provider.Versions{"a": "1"}}, nil
}

func (c *curious) Release(context.Context, provider.Lease) error { return nil }

// A bureau is an API server that is asked for a curious provider.
type bureau struct {
	*stage
	facts *Facts
	store *curious
	p     provider.Provider
}

func newBureau(t *testing.T, facts ...provider.Fact) *bureau {
	b := &bureau{stage: newStage(t), store: &curious{facts: facts}}
	b.put(nodes+"n", object{"metadata": object{"labels": object{"topology.kubernetes.io/region": "eu"}}, "spec": object{"podCIDR": "10.0.0.0/24"}})
	b.annotate("sa", map[string]string{"example.com/role": "reader"})
	b.annotate("sb", map[string]string{"example.com/role": "writer"})
	b.facts = NewFacts(b.client, "n")
	b.p = b.facts.Middleware()("aws", b.store)
	return b
}

// annotate makes a service account.
func (b *bureau) annotate(name string, annotations map[string]string) {
	b.put(accounts+name, object{"metadata": object{"annotations": annotations}})
}

// follow runs Run until the test ends.
func (b *bureau) follow() {
	b.run(func(done <-chan struct{}) error {
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-done; cancel() }()
		return b.facts.Run(ctx)
	})
}

// watched waits until watches have seen as many service accounts and nodes.
func (b *bureau) watched(n int) {
	b.t.Helper()
	b.eventually(fmt.Sprint(n, " are watched"), func() bool {
		b.facts.mu.Lock()
		defer b.facts.mu.Unlock()
		seen := 0
		for _, known := range b.facts.known {
			if known.watched {
				seen++
			}
		}
		return seen == n
	})
}

// age makes what is known older.
func (b *bureau) age(by time.Duration) {
	b.facts.mu.Lock()
	defer b.facts.mu.Unlock()
	for _, known := range b.facts.known {
		known.asked, known.last = known.asked.Add(-by), known.last.Add(-by)
	}
	for _, w := range b.facts.wanted.of {
		w.last = w.last.Add(-by)
	}
}

// costs makes a fetch that has to succeed, and checks how many fetches of the
// store and questions to the API server it took.
func (b *bureau) costs(when string, req *provider.Request, fetches, asked int) {
	b.t.Helper()
	wasFetched, wasAsked := b.store.fetches, len(b.questions())
	if _, err := b.p.Fetch(b.t.Context(), req); err != nil {
		b.t.Fatalf("%s: %v", when, err)
	}
	if f, a := b.store.fetches-wasFetched, len(b.questions())-wasAsked; f != fetches || a != asked {
		b.t.Errorf("%s: %d fetches and %d questions, want %d and %d", when, f, a, fetches, asked)
	}
}

// questions returns the requests for one object; not those of watches, which
// come when they come.
func (b *bureau) questions() []string {
	return append(b.requests("GET "+accounts), b.requests(getNode)...)
}

// becomes waits until a fetch has that fact.
func (b *bureau) becomes(fact provider.Fact, want string) {
	b.t.Helper()
	b.eventually(fmt.Sprintf("%s is %q", fact, want), func() bool {
		_, err := b.p.Fetch(b.t.Context(), aFetch())
		return err == nil && b.store.got[fact] == want
	})
}

func ofAnother(r *provider.Request) { r.Pod.ServiceAccount = "sb" }

func TestFactsAreThoseOfThePodAndTheNode(t *testing.T) {
	b := newBureau(t, role, audience, region)
	req := aFetch()
	before := *req
	b.costs("at first", req, 2, 2)
	if diff := cmp.Diff(provider.Facts{role: "reader", audience: "", region: "eu"}, b.store.got); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&before, req, cmp.Comparer(secret.Value.Equal)); diff != "" {
		t.Errorf("the request was changed (-before +after):\n%s", diff)
	}
	b.costs("of another service account", aFetch(ofAnother), 1, 1)
	if diff := cmp.Diff(provider.Facts{role: "writer", audience: "", region: "eu"}, b.store.got); diff != "" {
		t.Errorf("facts of another service account (-want +got):\n%s", diff)
	}
	b.costs("what the request has already stays", aFetch(func(r *provider.Request) { r.Facts = provider.Facts{role: "mine"} }), 2, 0)
	if diff := cmp.Diff(provider.Facts{role: "mine", audience: "", region: "eu"}, b.store.got); diff != "" {
		t.Errorf("facts of a request with a fact (-want +got):\n%s", diff)
	}
	for _, call := range b.requests("") {
		if call != getAccount && call != "GET "+accounts+"sb" && call != getNode {
			t.Errorf("the API server was asked %s", call)
		}
	}
}

func TestFactsAreAskedForWhenTheyAreWantedAndNotKnown(t *testing.T) {
	b := newBureau(t, role, region)
	b.follow()
	b.costs("at first", aFetch(), 2, 2)
	b.costs("again", aFetch(), 1, 0)
	b.costs("another pod of the class", aFetch(ofPod2), 1, 0)
	b.costs("another class that wants them", aFetch(func(r *provider.Request) { r.Class = "ns/other" }), 2, 0)
	b.costs("an edited class", aFetch(func(r *provider.Request) { r.Parameters = map[string]string{"more": ""} }), 2, 0)
	b.watched(2)
	b.age(wantedFor - time.Minute)
	b.costs("after less than an hour", aFetch(), 1, 0)
	b.age(2 * time.Minute)
	b.facts.sweep()
	b.costs("what is asked for now and then is kept", aFetch(), 1, 0)
	b.age(wantedFor + time.Minute)
	b.facts.sweep()
	if len(b.facts.known) > 0 || len(b.facts.wanted.of) > 0 || len(b.facts.watches.used) > 0 {
		t.Errorf("%v, %v and %v are remembered", b.facts.known, b.facts.wanted.of, b.facts.watches.used)
	}
	b.costs("nobody has asked for long", aFetch(), 2, 2)
}

func TestWhoWantsNoFactsCostsNothing(t *testing.T) {
	b := newBureau(t)
	b.follow()
	b.costs("a fetch", aFetch(), 1, 0)
	if calls := b.requests(""); len(calls) > 0 {
		t.Errorf("the API server was asked %q", calls)
	}
}

func TestAServiceAccountInUseHasOneWatch(t *testing.T) {
	b := newBureau(t, role, region)
	b.costs("before watches run", aFetch(), 2, 2)
	b.costs("once more before watches run", aFetch(), 1, 0)
	b.follow()
	b.watched(2)
	b.annotate("sa", map[string]string{"example.com/role": "admin"})
	b.becomes(role, "admin")
	b.put(nodes+"n", object{"metadata": object{"labels": object{"topology.kubernetes.io/region": "us"}}})
	b.becomes(region, "us")
	b.age(time.Hour - time.Minute) // it is asked for now and then
	b.costs("a watched one", aFetch(), 1, 0)
	b.annotate("other", map[string]string{"example.com/role": "stranger"})
	b.costs("another service account", aFetch(ofAnother), 1, 1)
	b.watched(3)
	for _, watch := range []string{watchAccount, "WATCH " + nodes} {
		if got := len(b.requests(strings.TrimSuffix(watch, "/"))); got < 1 || got > 2 {
			t.Errorf("%d times %s", got, watch)
		}
	}
}

func TestAnAnswerThatNoWatchConfirmsIsAskedForAgain(t *testing.T) {
	b := newBureau(t, role)
	b.mu.Lock()
	b.refuse = func(verb, path string) int {
		if verb == "WATCH" || strings.HasSuffix(path, "/serviceaccounts") {
			return http.StatusForbidden
		}
		return 0
	}
	b.mu.Unlock()
	b.follow()
	b.costs("at first", aFetch(), 2, 1)
	b.annotate("sa", map[string]string{"example.com/role": "admin"})
	b.costs("within a minute", aFetch(), 1, 0)
	b.age(askedFor + time.Second)
	b.costs("after a minute", aFetch(), 1, 1)
	if b.store.got[role] != "admin" {
		t.Errorf("the role is %q", b.store.got[role])
	}
}

// A call may be under way while a watch already sees what comes after it.
func TestAnAnswerDoesNotReplaceWhatAWatchSaw(t *testing.T) {
	b := newBureau(t, role)
	b.follow()
	b.costs("at first", aFetch(), 2, 1)
	b.watched(1)
	s := subject{"ns", "sa"}
	old := b.facts.recall(s).DeepCopy()
	old.Annotations["example.com/role"] = "old"
	b.facts.note(s, old)
	b.costs("after a late answer", aFetch(), 1, 0)
	if b.store.got[role] != "reader" {
		t.Errorf("the role is %q, want that of the watch", b.store.got[role])
	}
}

func TestFactsOutliveTheAPIServer(t *testing.T) {
	b := newBureau(t, role)
	b.follow()
	b.costs("at first", aFetch(), 2, 1)
	b.watched(1)
	b.mu.Lock()
	b.refuse = func(string, string) int { return http.StatusServiceUnavailable }
	b.mu.Unlock()
	b.age(wantedFor - time.Minute)
	b.costs("while the API server is away", aFetch(), 1, 0)
}

func TestAServiceAccountThatGoesAndComes(t *testing.T) {
	b := newBureau(t, role)
	b.follow()
	b.costs("at first", aFetch(), 2, 1)
	b.watched(1)
	b.remove(accounts + "sa")
	b.eventually("it is gone", func() bool {
		_, err := b.p.Fetch(t.Context(), aFetch())
		return errors.Is(err, provider.ErrNotFound)
	})
	b.annotate("sa", map[string]string{"example.com/role": "new"})
	b.becomes(role, "new")
	b.eventually("it is watched again", func() bool { return b.facts.recall(subject{"ns", "sa"}) != nil })
	b.costs("from memory", aFetch(), 1, 0)
}

func TestPodsThatMissFactsAtTheSameTimeAskOnce(t *testing.T) {
	b := newBureau(t, role)
	release := make(chan struct{})
	b.refuse = func(string, string) int {
		b.mu.Unlock()
		<-release
		b.mu.Lock()
		return 0
	}
	var all sync.WaitGroup
	for i := range 50 {
		all.Go(func() {
			if _, err := b.p.Fetch(context.Background(), aFetch(func(r *provider.Request) { r.Pod = aVolume(fmt.Sprint(i)).Pod })); err != nil {
				t.Error(err)
			}
		})
	}
	b.eventually("one question", func() bool { return len(b.requests("GET")) > 0 })
	close(release)
	all.Wait()
	if got := len(b.requests("GET")); got != 1 {
		t.Errorf("%d questions for 50 pods", got)
	}
}

func TestOneFactAfterTheOtherIsHadByOneCallAfterTheOther(t *testing.T) {
	b := newBureau(t, role)
	b.costs("one", aFetch(), 2, 1)
	b.store.facts = []provider.Fact{audience, region}
	b.costs("others", aFetch(), 2, 1)
	b.costs("all of them", aFetch(), 1, 0)
	if diff := cmp.Diff(provider.Facts{role: "reader", audience: "", region: "eu"}, b.store.got); diff != "" {
		t.Errorf("facts (-want +got):\n%s", diff)
	}
}

func TestWhereNoFactCanHelpNoneIsLookedUp(t *testing.T) {
	missing := &provider.MissingFactsError{Facts: []provider.Fact{role}}
	for name, c := range map[string]struct {
		change func(*provider.Request)
		err    error
	}{
		"another failure":              {func(*provider.Request) {}, provider.ErrDenied},
		"the provider has it already":  {func(r *provider.Request) { r.Facts = provider.Facts{role: ""} }, missing},
		"it misses nothing":            {func(*provider.Request) {}, &provider.MissingFactsError{}},
		"there is no such fact":        {func(*provider.Request) {}, &provider.MissingFactsError{Facts: []provider.Fact{role, "secret/x"}}},
		"nobody knows whose pod it is": {func(r *provider.Request) { r.Pod.ServiceAccount = "" }, missing},
		"nor where it is":              {func(r *provider.Request) { r.Pod.Namespace = "" }, missing},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBureau(t)
			p := b.facts.Middleware()("aws", failing{c.err})
			if _, err := p.Fetch(t.Context(), aFetch(c.change)); !errors.Is(err, c.err) || len(b.requests("")) > 0 {
				t.Errorf("Fetch = %v with the requests %q, want %v and none", err, b.requests(""), c.err)
			}
		})
	}
}

func TestFactsLeaveOptionalInterfacesReachable(t *testing.T) {
	if _, ok := provider.As[provider.Releaser](newBureau(t).p); !ok {
		t.Error("the provider is no Releaser any more")
	}
}

func TestFactsThatCannotBeHadHaveAReason(t *testing.T) {
	for _, c := range []struct {
		name    string
		fact    provider.Fact
		arrange func(*bureau)
		want    error
		says    string
	}{
		{"the service account is not there", role, func(b *bureau) { b.remove(accounts + "sa") }, provider.ErrNotFound,
			"class ns/c: look up serviceaccount/example.com/role: read service account ns/sa: it is not there: NotFound"},
		{"the node is not there", region, func(b *bureau) { b.remove(nodes + "n") }, provider.ErrNotFound, "read node n: it is not there"},
		{"the driver has no right", role, refuse(http.StatusForbidden), provider.ErrDenied,
			"the driver may not read service accounts and nodes, which lookups.enabled of the chart grants: Forbidden"},
		{"the API server is not well", region, refuse(http.StatusInternalServerError), provider.ErrUnavailable, "read node n: ask the API server"},
		{"an annotation is no name", role, func(b *bureau) {
			b.annotate("sa", map[string]string{"example.com/role": strings.Repeat("x", 8<<10+1)})
		}, provider.ErrInvalid, "class ns/c: serviceaccount/example.com/role is no text of at most 8192 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBureau(t, c.fact)
			c.arrange(b)
			b.follow()
			if _, err := b.p.Fetch(t.Context(), aFetch()); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("Fetch = %v, want %v and %q", err, c.want, c.says)
			}
		})
	}
}

// refuse makes the API server answer so.
func refuse(code int) func(*bureau) {
	return func(b *bureau) { b.refuse = func(string, string) int { return code } }
}

// A watch would be refused again and again.
func TestWhatCannotBeReadIsNotWatched(t *testing.T) {
	b := newBureau(t, role)
	refuse(http.StatusForbidden)(b)
	b.follow()
	if _, err := b.p.Fetch(t.Context(), aFetch()); err == nil || len(b.facts.known) > 0 || len(b.facts.watches.used) > 0 {
		t.Errorf("Fetch = %v; %v and %v are remembered", err, b.facts.known, b.facts.watches.used)
	}
}

// After a failure the provider is asked first again: it may not want the facts
// any more.
func TestAClassWhoseFactsCannotBeHadIsAskedAgain(t *testing.T) {
	b := newBureau(t, role)
	b.costs("at first", aFetch(), 2, 1)
	b.mu.Lock()
	b.refuse = func(string, string) int { return http.StatusInternalServerError }
	b.mu.Unlock()
	if _, err := b.p.Fetch(t.Context(), aFetch(ofAnother)); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("Fetch = %v, want ErrUnavailable", err)
	}
	b.store.facts = nil
	b.costs("it wants none any more", aFetch(ofAnother), 1, 0)
}

func TestAWaitForFactsEndsWithItsCaller(t *testing.T) {
	b := newBureau(t, role)
	ctx, cancel := context.WithCancel(t.Context())
	release := make(chan struct{})
	b.refuse = func(string, string) int {
		cancel()
		b.mu.Unlock()
		<-release
		b.mu.Lock()
		return 0
	}
	if _, err := b.p.Fetch(ctx, aFetch()); !errors.Is(err, provider.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Fetch = %v, want ErrUnavailable and the end of its context", err)
	}
	close(release)
	b.eventually("others have the answer", func() bool { return b.facts.recall(subject{"ns", "sa"}) != nil })
}

// A factual provider needs a token of the audience that a fact names.
type factual struct{ *curious }

func (f factual) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	bundle, err := f.curious.Fetch(ctx, req)
	if err != nil {
		return nil, err
	}
	if _, err := req.Tokens.For(req.Facts[audience], time.Now()); err != nil {
		return nil, fmt.Errorf("log in: %w", err)
	}
	return bundle, nil
}

// Each service account has the token that its annotation wants, and no other.
func TestFactsDecideWhichTokensAreMade(t *testing.T) {
	b := newBureau(t, audience)
	for _, name := range []string{"p-1", "p-2"} {
		b.put(pods+name, object{"metadata": object{"uid": strings.Replace(name, "p", "u", 1)}})
	}
	b.annotate("sa", map[string]string{"example.com/audience": "a"})
	b.annotate("sb", map[string]string{"example.com/audience": "b"})
	b.p = b.facts.Middleware()("aws", NewTokens(b.client).Middleware()("aws", factual{b.store}))
	made := func() int { return len(b.requests("POST ")) }
	for _, c := range []struct {
		name          string
		req           *provider.Request
		fetches, made int
	}{
		{"at first", aFetch(), 3, 1},
		{"again", aFetch(), 1, 0},
		{"another service account", aFetch(ofPod2, ofAnother), 2, 1},
		{"that one again", aFetch(ofPod2, ofAnother), 1, 0},
		{"the first one again", aFetch(), 1, 0},
	} {
		before, fetched := made(), b.store.fetches
		if _, err := b.p.Fetch(t.Context(), c.req); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if f, m := b.store.fetches-fetched, made()-before; f != c.fetches || m != c.made {
			t.Errorf("%s: %d fetches and %d tokens, want %d and %d", c.name, f, m, c.fetches, c.made)
		}
	}
}
