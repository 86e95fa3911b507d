package kube

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// A demanding provider needs tokens of some audiences, in their order. It is a
// provider.Releaser.
type demanding struct {
	audiences []string

	mu      sync.Mutex
	fetches int
	got     provider.Tokens // of the last fetch that succeeded
}

func (d *demanding) Fetch(_ context.Context, req *provider.Request) (*provider.Bundle, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fetches++
	got := provider.Tokens{}
	for _, audience := range d.audiences {
		token, err := req.Tokens.For(audience, time.Now())
		if err != nil {
			return nil, fmt.Errorf("log in: %w", err)
		}
		got[audience] = token
	}
	d.got = got
	return &provider.Bundle{Versions: provider.Versions{"a": "1"}}, nil
}

func (d *demanding) Release(context.Context, provider.Lease) error { return nil }

// An office is an API server that makes tokens for a demanding provider.
type office struct {
	*fakeAPI
	tokens *Tokens
	store  *demanding
	p      provider.Provider
}

func newOffice(t *testing.T, audiences ...string) *office {
	o := &office{fakeAPI: newFakeAPI(t), store: &demanding{audiences: audiences}}
	o.mark = rand.Text()
	for _, name := range []string{"p-1", "p-2"} {
		o.put(pods+name, object{"metadata": object{"uid": strings.Replace(name, "p", "u", 1)}})
	}
	o.tokens = NewTokens(o.client)
	o.p = o.tokens.Middleware()("vault", o.store)
	return o
}

// aFetch asks for the volume of the pod p-1 with a token from kubelet; each
// change makes another request.
func aFetch(changes ...func(*provider.Request)) *provider.Request {
	req := &provider.Request{
		Class: "ns/c", Parameters: map[string]string{"audience": "x"}, Pod: aVolume("1").Pod,
		Tokens: provider.Tokens{"vault": {Value: secret.New([]byte("of kubelet"))}},
	}
	for _, change := range changes {
		change(req)
	}
	return req
}

// fetch makes a fetch that has to succeed, and returns how many fetches of the
// store and tokens of the API server it took.
func (o *office) fetch(req *provider.Request) (fetches, made int) {
	o.t.Helper()
	fetches, made = o.store.fetches, len(o.requests("POST "+tokens))
	if _, err := o.p.Fetch(o.t.Context(), req); err != nil {
		o.t.Fatal(err)
	}
	return o.store.fetches - fetches, len(o.requests("POST "+tokens)) - made
}

// costs checks what a fetch takes.
func (o *office) costs(when string, req *provider.Request, fetches, made int) {
	o.t.Helper()
	if f, m := o.fetch(req); f != fetches || m != made {
		o.t.Errorf("%s: %d fetches and %d tokens, want %d and %d", when, f, m, fetches, made)
	}
}

// age makes all tokens, and what is known of classes, older.
func (o *office) age(by time.Duration) {
	o.tokens.mu.Lock()
	defer o.tokens.mu.Unlock()
	for h, token := range o.tokens.minted {
		token.Expires = token.Expires.Add(-by)
		o.tokens.minted[h] = token
	}
	for _, w := range o.tokens.wanted.of {
		w.last = w.last.Add(-by)
	}
}

func ofPod2(r *provider.Request) { r.Pod = aVolume("2").Pod }

func TestATokenIsMadeForThePodAndTheAudience(t *testing.T) {
	for audience, want := range map[string]any{"https://vault.example": []any{"https://vault.example"}, "": nil} {
		o := newOffice(t, audience)
		req := aFetch()
		before, began := *req, time.Now()
		o.costs("at first", req, 2, 1)
		if diff := cmp.Diff(&before, req, cmp.Comparer(secret.Value.Equal)); diff != "" || len(req.Tokens) != 1 {
			t.Errorf("the request was changed (-before +after):\n%s", diff)
		}
		spec := object{"expirationSeconds": 900.0, "audiences": want, "boundObjectRef": object{"kind": "Pod", "apiVersion": "v1", "name": "p-1", "uid": "u-1"}}
		var sent object
		if err := json.Unmarshal([]byte(o.bodies[0]), &sent); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(spec, sent["spec"]); diff != "" || sent["kind"] != "TokenRequest" || sent["apiVersion"] != "authentication.k8s.io/v1" {
			t.Errorf("%q: sent %v (-want +got):\n%s", audience, sent, diff)
		}
		token := o.store.got[audience]
		if got, want := string(token.Value.Reveal()), fmt.Sprint(o.mark, want, "u-1"); got != want {
			t.Errorf("%q: the provider got the token %q, want %q", audience, got, want)
		}
		if life := token.Expires.Sub(began); life < 12*time.Minute || life > 12*time.Minute+patience {
			t.Errorf("%q: the token lives for %v, want 80%% of 15m", audience, life)
		}
	}
}

func TestATokenIsMadeWhenItIsWantedAndThereIsNone(t *testing.T) {
	o := newOffice(t, "x")
	o.costs("at first", aFetch(), 2, 1)
	o.costs("again", aFetch(), 1, 0)
	o.costs("another pod of the class", aFetch(ofPod2), 1, 1)
	o.costs("another class that wants it", aFetch(func(r *provider.Request) { r.Class = "ns/other" }), 2, 0)
	o.costs("an edited class", aFetch(func(r *provider.Request) { r.Parameters = map[string]string{"audience": "x", "more": ""} }), 2, 0)
	o.costs("a service account of other facts", aFetch(func(r *provider.Request) { r.Facts = provider.Facts{"serviceaccount/audience": "x"} }), 2, 0)
	o.costs("kubelet brings it now", aFetch(func(r *provider.Request) { r.Tokens["x"] = r.Tokens["vault"] }), 1, 0)
	o.costs("what kubelet brought has expired", aFetch(func(r *provider.Request) { r.Tokens["x"] = provider.Token{Expires: time.Now()} }), 1, 0)
	o.costs("kubelet brings none at all", aFetch(func(r *provider.Request) { r.Tokens = nil }), 1, 0)
	o.age(13 * time.Minute)
	o.costs("it has expired", aFetch(), 1, 1)
	o.age(wantedFor + time.Minute)
	o.tokens.sweep()
	if len(o.tokens.minted) > 0 || len(o.tokens.wanted.of) > 0 {
		t.Errorf("%d tokens and %d classes are remembered", len(o.tokens.minted), len(o.tokens.wanted.of))
	}
	o.costs("nobody has asked for long", aFetch(), 2, 1)
}

func TestAnExpiredTokenIsForgotten(t *testing.T) {
	o := newOffice(t, "x")
	o.life = 1 // second, of which the token is kept for 0.8
	o.fetch(aFetch())
	o.eventually("the token is forgotten", func() bool {
		o.tokens.mu.Lock()
		defer o.tokens.mu.Unlock()
		return len(o.tokens.minted) == 0
	})
}

func TestOneTokenAfterTheOtherIsHadByOneCallAfterTheOther(t *testing.T) {
	o := newOffice(t, "x", "y")
	if _, err := o.p.Fetch(t.Context(), aFetch()); !strings.Contains(fmt.Sprint(err), `audience "y"`) || o.store.fetches != 2 {
		t.Errorf("Fetch = %v after %d fetches, want that y is missing after 2", err, o.store.fetches)
	}
	o.costs("the second call", aFetch(), 2, 1)
	o.costs("the third call", aFetch(), 1, 0)
}

func TestPodsThatMissATokenAtTheSameTimeAllGetOne(t *testing.T) {
	o := newOffice(t, "x")
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if _, err := o.p.Fetch(t.Context(), aFetch(func(r *provider.Request) { r.Pod = aVolume(fmt.Sprint(1 + i%2)).Pod })); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestWhatIsKnownOfAClassIsBounded(t *testing.T) {
	o := newOffice(t)
	for i := range 2 * maxAudiences {
		o.store.audiences = []string{fmt.Sprint("audience ", i)}
		o.fetch(aFetch())
	}
	for u, w := range o.tokens.wanted.of {
		if len(w.list) != maxAudiences {
			t.Errorf("%v: %d audiences are remembered, want %d", u.class, len(w.list), maxAudiences)
		}
	}
	o.costs("an audience beyond the bound", aFetch(), 2, 0)
}

func TestWhereNoTokenCanHelpNoneIsMade(t *testing.T) {
	stubborn := &provider.MissingTokenError{Audience: "vault"} // which kubelet brings
	for name, c := range map[string]struct {
		change func(*provider.Request)
		err    error
	}{
		"another failure":              {func(*provider.Request) {}, provider.ErrDenied},
		"the provider has it already":  {func(*provider.Request) {}, stubborn},
		"the pod has no UID":           {func(r *provider.Request) { r.Pod.UID = "" }, &provider.MissingTokenError{Audience: "x"}},
		"the pod has no name":          {func(r *provider.Request) { r.Pod.Name = "" }, &provider.MissingTokenError{Audience: "x"}},
		"nobody knows whose pod it is": {func(r *provider.Request) { r.Pod.ServiceAccount = "" }, &provider.MissingTokenError{Audience: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOffice(t)
			p := o.tokens.Middleware()("vault", failing{c.err})
			if _, err := p.Fetch(t.Context(), aFetch(c.change)); !errors.Is(err, c.err) || len(o.requests("POST")) > 0 {
				t.Errorf("Fetch = %v with the requests %q, want %v and none", err, o.requests("POST"), c.err)
			}
		})
	}
}

// failing is a provider that fails.
type failing struct{ err error }

func (f failing) Fetch(context.Context, *provider.Request) (*provider.Bundle, error) {
	return nil, f.err
}

func TestOptionalInterfacesStayReachable(t *testing.T) {
	if _, ok := provider.As[provider.Releaser](newOffice(t).p); !ok {
		t.Error("the provider is no Releaser any more")
	}
}

func TestATokenThatCannotBeMadeHasAReason(t *testing.T) {
	status := func(code int, reason string, causes ...object) string {
		text, _ := json.Marshal(object{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "code": code, "message": "its words", "details": object{"causes": causes}})
		return string(text)
	}
	for _, c := range []struct {
		name string
		code int
		body string
		want error
		says string
	}{
		{"the driver has no right", http.StatusForbidden, status(403, "Forbidden"), provider.ErrDenied, "the driver may not create serviceaccounts/token, which mintTokens.enabled of the chart grants: its words"},
		{"pod or account are not there", http.StatusNotFound, status(404, "NotFound"), provider.ErrNotFound, "has gone: its words"},
		{"the pod was replaced by another one", http.StatusConflict, status(409, "Conflict"), provider.ErrNotFound, "has gone: its words"},
		{"the namespace is going", http.StatusForbidden, status(403, "Forbidden", object{"reason": corev1.NamespaceTerminatingCause}), provider.ErrNotFound, "has gone: its words"},
		{"the API server is not well", http.StatusInternalServerError, status(500, "InternalError"), provider.ErrUnavailable, "ask the API server: its words"},
		{"the answer has no token", http.StatusCreated, `{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 900}}`, provider.ErrUnavailable, "cannot be read"},
		{"the answer is no JSON", http.StatusCreated, "canary", provider.ErrUnavailable, "cannot be read"},
		{"the answer is something else", http.StatusCreated, `{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "status": "canary"}`, provider.ErrUnavailable, "cannot be read"},
		{"the answer is cut off", http.StatusCreated, `{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "status": {"token": "canary`, provider.ErrUnavailable, "cannot be read"},
		{"nobody answers", 0, "", provider.ErrUnavailable, "ask the API server"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				if c.code == 0 {
					panic(http.ErrAbortHandler)
				}
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(c.code)
				_, _ = w.Write([]byte(c.body))
			}))
			defer server.Close()
			client, err := newClient(&rest.Config{Host: server.URL, QPS: -1})
			if err != nil {
				t.Fatal(err)
			}
			p := NewTokens(client).Middleware()("vault", &demanding{audiences: []string{"x"}})
			_, err = p.Fetch(t.Context(), aFetch())
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) || strings.Contains(err.Error(), "canary") {
				t.Errorf("Fetch = %v, want %v, %q, and no canary", err, c.want, c.says)
			}
			if want := `class ns/c: make a token of audience "x" for service account ns/sa and pod p-1: `; !strings.HasPrefix(err.Error(), want) {
				t.Errorf("Fetch = %v, want it to begin with %q", err, want)
			}
		})
	}
}

func TestAWaitForATokenEndsWithItsCaller(t *testing.T) {
	o := newOffice(t, "x")
	ctx, cancel := context.WithCancel(t.Context())
	o.refuse = func(string, string) int { cancel(); return http.StatusInternalServerError }
	if _, err := o.p.Fetch(ctx, aFetch()); !errors.Is(err, provider.ErrUnavailable) || !errors.Is(err, context.Canceled) {
		t.Errorf("Fetch = %v, want ErrUnavailable and the end of its context", err)
	}
}

// After a failure the provider is asked first again: it may not want the token
// any more.
func TestAClassWhoseTokenCannotBeMadeIsAskedAgain(t *testing.T) {
	o := newOffice(t, "x")
	o.fetch(aFetch())
	o.mu.Lock()
	o.refuse = func(string, string) int { return http.StatusForbidden }
	o.mu.Unlock()
	if _, err := o.p.Fetch(t.Context(), aFetch(ofPod2)); !errors.Is(err, provider.ErrDenied) {
		t.Errorf("Fetch without the right = %v, want ErrDenied", err)
	}
	o.store.audiences = nil
	o.costs("it wants none any more", aFetch(ofPod2), 1, 0)
}

// Neither the log, however loud, nor an error shows a token.
func TestNothingShowsATokenThatIsMade(t *testing.T) {
	log := captureLog(t)
	var level klog.Level
	_ = level.Set("10")
	o := newOffice(t, "x", "y")
	_, err := o.p.Fetch(t.Context(), aFetch())
	o.fetch(aFetch())
	for _, token := range o.store.got {
		if !strings.Contains(string(token.Value.Reveal()), o.mark) {
			t.Fatal("the provider got another token")
		}
	}
	o.put(classes+"c", aClass(nil))
	if _, err := NewClasses(o.client, nil).Class(t.Context(), className); err != nil {
		t.Fatal(err)
	}
	if len(log.lines("SecretProviderClass")) == 0 {
		t.Error("the log has no bodies at all: is it loud enough?")
	}
	said := fmt.Sprintf("%v %#v %v %#v", err, err, o.store.got, o.store.got)
	for _, text := range append(log.lines(""), said) {
		if strings.Contains(text, o.mark) {
			t.Errorf("a token is in %s", strings.ReplaceAll(text, o.mark, "[token]"))
		}
	}
	if slices.ContainsFunc(o.bodies, func(body string) bool { return strings.Contains(body, o.mark) }) {
		t.Error("a token was sent to the API server")
	}
}
