package vault

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/vault/vaulttest"
)

// asked returns how often each path was asked for since the last call.
func (b *backend) asked() map[string]int {
	asked := make(map[string]int)
	for _, r := range b.Requests() {
		asked[r.Path]++
	}
	b.ResetRequests()
	return asked
}

const three = `
- {objectName: a, secretPath: secret/data/a, secretKey: k}
- {objectName: b, secretPath: secret/data/b, secretKey: k}
- {objectName: b.json, secretPath: secret/data/b}
- {objectName: c, secretPath: secret/data/c, secretKey: k}
`

func (b *backend) putThree() {
	for _, name := range []string{"a", "b", "c"} {
		b.KV2("secret").Put(name, map[string]any{"k": name})
	}
}

func TestAnUnchangedPollAsksForOneMetadataPerSecret(t *testing.T) {
	b := newBackend(t, backendOptions{})
	b.putThree()
	var held []*provider.Bundle
	for range 50 {
		held = append(held, b.fetch(t, b.ask(three)))
	}
	want := map[string]int{"auth/kubernetes/login": 1, "sys/internal/ui/mounts/secret/data/a": 1, "secret/data/a": 50, "secret/data/b": 50, "secret/data/c": 50}
	if got := b.asked(); len(got) < 4 || got["auth/kubernetes/login"] != 1 || b.preflights(got) > 3 || got["secret/data/b"] != 50 {
		t.Errorf("50 first publishes ask for %v, want about %v", got, want)
	}
	for _, volume := range held {
		if again := b.fetch(t, again(b.ask(three), volume)); !again.Unchanged {
			t.Fatal("a poll finds a change where there is none")
		}
	}
	if got, want := fmt.Sprint(b.asked()), "map[secret/metadata/a:50 secret/metadata/b:50 secret/metadata/c:50]"; got != want {
		t.Errorf("50 unchanged polls ask for %s, want %s", got, want)
	}
	b.KV2("secret").Put("a", map[string]any{"k": "new"})
	if got := text(b.fetch(t, again(b.ask(three), held[0]))); got["a"] != "new" || len(got) != 4 {
		t.Errorf("after a change the files are %v", got)
	}
}

// preflights returns how often the server was asked what is mounted where.
func (b *backend) preflights(asked map[string]int) (n int) {
	for path, times := range asked {
		if strings.HasPrefix(path, "sys/internal/ui/mounts/") {
			n += times
		}
	}
	return n
}

func TestWhoMayNotSeeMetadataAsksOnceInAWhile(t *testing.T) {
	b := newBackend(t, backendOptions{grant: vaulttest.Grant{Deny: []string{"secret/metadata/"}}})
	b.putThree()
	req := b.ask("- {objectName: a, secretPath: secret/data/a, secretKey: k}")
	held := b.fetch(t, req)
	b.asked()
	for range 5 {
		if !b.fetch(t, again(req, held)).Unchanged {
			t.Fatal("a poll finds a change where there is none")
		}
	}
	if got, want := fmt.Sprint(b.asked()), "map[auth/token/lookup-self:1 secret/data/a:5 secret/metadata/a:1]"; got != want {
		t.Errorf("5 polls ask for %s, want %s", got, want)
	}
}

func TestPodsThatStartTogetherLogInOnce(t *testing.T) {
	b := newBackend(t, backendOptions{})
	b.putThree()
	var pods sync.WaitGroup
	for range 20 {
		pods.Go(func() {
			if _, err := b.provider.Fetch(t.Context(), b.ask(three)); err != nil {
				t.Errorf("Fetch: %v", err)
			}
		})
	}
	pods.Wait()
	if got := b.Logins(); got != 1 {
		t.Errorf("20 pods of one identity log in %d times, want once", got)
	}
}

func TestADeadTokenIsReplacedOnce(t *testing.T) {
	b := newBackend(t, backendOptions{})
	b.putThree()
	req := b.ask(three)
	held := b.fetch(t, req)
	b.RevokeTokens()
	b.ResetRequests()
	if !b.fetch(t, again(req, held)).Unchanged {
		t.Error("a poll finds a change where there is none")
	}
	if got := b.Logins(); got != 1 {
		t.Errorf("%d logins after the token was revoked, want 1", got)
	}
}

func TestWhoIsDeniedDoesNotLogInAtEachPoll(t *testing.T) {
	for name, grant := range map[string]vaulttest.Grant{
		"a token that may look at itself":     {Deny: []string{"secret/data/a"}},
		"a token that may not look at itself": {Deny: []string{"secret/data/a", "auth/token/lookup-self"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, backendOptions{grant: grant})
			b.putThree()
			for range 10 {
				_, err := b.provider.Fetch(t.Context(), b.ask(three))
				if !errors.Is(err, provider.ErrDenied) || !strings.Contains(err.Error(), "403: permission denied") {
					t.Fatalf("error %v, want ErrDenied with the server's words", err)
				}
			}
			if got := b.Logins(); got > 2 {
				t.Errorf("10 denied fetches log in %d times, want twice at most", got)
			}
		})
	}
}

func TestWhoIsDeniedTakesUpNewPolicies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true, grant: vaulttest.Grant{Deny: []string{"secret/data/a"}}})
		b.putThree()
		if _, err := b.provider.Fetch(t.Context(), b.ask(three)); !errors.Is(err, provider.ErrDenied) {
			t.Fatalf("error %v, want ErrDenied", err)
		}
		b.Kubernetes("kubernetes").Role("shop", vaulttest.Role{Namespace: "shop", Audience: "vault"})
		time.Sleep(patience)
		b.fetch(t, b.ask(three))
		if got := b.Logins(); got != 2 {
			t.Errorf("%d logins, want 2", got)
		}
	})
}

func TestRefusedLoginsSayWhoAndWhy(t *testing.T) {
	b := newBackend(t, backendOptions{})
	b.JWT("jwt").Role("shop", vaulttest.Role{Namespace: "shop", Audience: "vault"})
	for _, c := range []struct {
		name, want string
		change     func(*provider.Request)
	}{
		{"another service account", `failed to login: service account shop/intruder with role "shop" and audience "vault": POST auth/kubernetes/login at ` + b.URL + `: 403: service account name not authorized: denied`, func(r *provider.Request) {
			r.Pod.ServiceAccount = "intruder"
			r.Tokens["vault"] = provider.Token{Value: secret.New([]byte(b.ServiceAccountToken("shop", "intruder", "vault", time.Hour)))}
		}},
		{"an unknown role", `400: invalid role name "no": denied`, func(r *provider.Request) { r.Parameters["roleName"] = "no" }},
		{"an unknown mount", `POST auth/no/login at ` + b.URL + `: 403: permission denied: denied`, func(r *provider.Request) { r.Parameters["vaultAuthMountPath"] = "no" }},
		{"a forged token", `denied`, func(r *provider.Request) {
			r.Parameters["vaultAuthMethod"] = "jwt"
			r.Tokens["vault"] = provider.Token{Value: secret.New([]byte(vaulttest.New(t, nil).ServiceAccountToken("shop", "web", "vault", time.Hour)))}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := b.ask(three)
			c.change(req)
			_, err := b.provider.Fetch(t.Context(), req)
			if !errors.Is(err, provider.ErrDenied) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "failed to login: ") {
				t.Errorf("error %v, want ErrDenied and %s", err, c.want)
			}
			if token := string(req.Tokens["vault"].Value.Reveal()); strings.Contains(err.Error(), token) {
				t.Error("the error shows the token")
			}
		})
	}
}

func TestTokensLiveWhileTheyAreUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true, grant: vaulttest.Grant{TTL: time.Minute, MaxTTL: 24 * time.Hour}})
		b.putThree()
		req := b.ask(three)
		held := b.fetch(t, req)
		for range 60 {
			time.Sleep(2 * time.Minute)
			if !b.fetch(t, again(req, held)).Unchanged {
				t.Fatal("a poll finds a change where there is none")
			}
		}
		if got := b.Logins(); got != 1 {
			t.Errorf("polls of two hours with tokens of a minute log in %d times, want once", got)
		}
		time.Sleep(idleTime + time.Minute)
		if got := b.Tokens(); len(got) != 0 {
			t.Errorf("%d tokens live although nobody uses them", len(got))
		}
		if got := b.Count("POST", "auth/token/revoke-self"); got != 1 {
			t.Errorf("%d tokens were revoked, want 1", got)
		}
	})
}

func TestTokensThatCannotLiveOnAreReplaced(t *testing.T) {
	for name, grant := range map[string]vaulttest.Grant{
		"not renewable":    {TTL: 5 * time.Minute, NotRenewable: true},
		"a longest life":   {TTL: time.Minute, MaxTTL: 5 * time.Minute},
		"a batch token":    {TTL: 5 * time.Minute, Batch: true},
		"one for a moment": {TTL: time.Second, MaxTTL: 5 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend(t, backendOptions{pipe: true, grant: grant})
				b.putThree()
				req := b.ask(three)
				held := b.fetch(t, req)
				for range 60 {
					time.Sleep(time.Minute)
					if !b.fetch(t, again(req, held)).Unchanged {
						t.Fatal("a poll finds a change where there is none")
					}
				}
				if got := b.Logins(); got < 10 || got > 16 {
					t.Errorf("an hour with tokens of five minutes takes %d logins, want one in about five minutes", got)
				}
			})
		})
	}
}

func TestCloseRevokesTokens(t *testing.T) {
	b := newBackend(t, backendOptions{})
	b.putThree()
	b.fetch(t, b.ask(three))
	if err := b.provider.Close(); err != nil || len(b.Tokens()) != 0 {
		t.Errorf("after Close (error %v) %d tokens live", err, len(b.Tokens()))
	}
	if _, err := b.provider.Fetch(t.Context(), b.ask(three)); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("a fetch after Close: error %v", err)
	}
}

func TestTheSessionsAreBounded(t *testing.T) {
	b := newBackend(t, backendOptions{})
	b.putThree()
	for i := range maxSessions + 20 {
		req := ask(Vault, map[string]string{"objects": three, "vaultAuthMethod": "token", "roleName": "-"})
		req.Credentials = map[string]secret.Value{"token": secret.New([]byte(b.Token(vaulttest.Grant{})))}
		if i%100 == 0 {
			b.fetch(t, req)
			continue
		}
		q, err := b.provider.parse(req)
		if err != nil {
			t.Fatal(err)
		}
		b.provider.sessions.offer(&session{identity: q.login.identity, token: q.login.token})
	}
	if got := len(b.provider.sessions.known); got > maxSessions {
		t.Errorf("%d sessions are kept, want at most %d", got, maxSessions)
	}
}

func TestFailuresThatPass(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		times  int
		header http.Header
		want   error
	}{
		{"a standby that has not caught up", 412, 2, nil, nil},
		{"too many requests", 429, 2, nil, nil},
		{"too many requests, and when to come back", 429, 1, http.Header{"Retry-After": {"1"}}, nil},
		{"an error", 500, 1, nil, nil},
		{"a gateway", 502, 2, nil, nil},
		{"an error that stays", 500, 3, nil, provider.ErrUnavailable},
		{"something that is not there", 501, 1, nil, provider.ErrInvalid},
		{"a request that is wrong", 400, 1, nil, provider.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend(t, backendOptions{pipe: true})
				b.putThree()
				b.Fail(c.times, c.status, c.header, "secret/data/a")
				_, err := b.provider.Fetch(t.Context(), b.ask("- {objectName: a, secretPath: secret/data/a}"))
				if !errors.Is(err, c.want) {
					t.Errorf("error %v, want %v", err, c.want)
				}
			})
		})
	}
}

func TestNobodyWaitsLongerThanTheCallerDoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true})
		b.putThree()
		b.Fail(-1, 429, http.Header{"Retry-After": {"3600"}}, "secret/data/a")
		ctx, cancel := timeout(t, 90*time.Second)
		defer cancel()
		begin := time.Now()
		_, err := b.provider.Fetch(ctx, b.ask("- {objectName: a, secretPath: secret/data/a}"))
		if !errors.Is(err, provider.ErrUnavailable) || !strings.Contains(err.Error(), ": 429: ") || time.Since(begin) > time.Second {
			t.Errorf("after %v error %v, want at once what the server said", time.Since(begin), err)
		}
	})
}

func TestASealedServerIsUnavailable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true})
		b.putThree()
		req := b.ask(three)
		held := b.fetch(t, req)
		b.Seal()
		_, err := b.provider.Fetch(t.Context(), again(req, held))
		if !errors.Is(err, provider.ErrUnavailable) || !strings.Contains(err.Error(), "Vault is sealed") {
			t.Errorf("error %v, want ErrUnavailable with the server's words", err)
		}
		b.Unseal()
		b.ResetRequests()
		if !b.fetch(t, again(req, held)).Unchanged || b.Logins() != 0 {
			t.Errorf("after unsealing: %d logins", b.Logins())
		}
	})
}

func TestOneRedirectionIsFollowed(t *testing.T) {
	active, standby := newBackend(t, backendOptions{}), newBackend(t, backendOptions{})
	active.KV1("kv").Put("x", map[string]any{"k": "v"})
	standby.KV1("kv")
	for location, want := range map[string]error{
		active.URL + "/v1/kv/x":      nil,
		standby.URL + "/v1/kv/x":     provider.ErrInvalid, // again and again
		"http://127.0.0.1:1/v1/kv/x": provider.ErrInvalid, // gives up encryption
	} {
		standby.Respond("kv/x", vaulttest.Raw(307, "", "Location: "+location))
		req := standby.ask("- {objectName: a, secretPath: kv/x, secretKey: k}")
		req.Parameters["vaultAuthMethod"] = "token"
		req.Credentials = map[string]secret.Value{"token": secret.New([]byte(vaulttest.RootToken))}
		req.Parameters["vaultCACertPath"] = joined(t, active.CAFile, standby.CAFile)
		_, err := standby.provider.Fetch(t.Context(), req)
		if !errors.Is(err, want) {
			t.Errorf("redirected to %s: error %v, want %v", location, err, want)
		}
	}
	if got := slices.ContainsFunc(active.Requests(), func(r vaulttest.Request) bool { return r.Path == "kv/x" }); !got {
		t.Error("the active server was not asked")
	}
}

func TestAPasswordThatTheServerRotatesIsFetchedThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true})
		rotate := func(password string) {
			b.Database("database").Static("app", vaulttest.StaticRole{Username: "app", Password: password, Rotation: 5 * time.Minute})
		}
		rotate("one")
		req := b.ask("- {objectName: all, secretPath: database/static-creds/app}\n- {objectName: password, secretPath: database/static-creds/app, secretKey: password}")
		held := b.fetch(t, req)
		if !held.Refresh.IsZero() || !held.Lease.IsZero() {
			t.Errorf("five minutes before the rotation: refresh %v, lease %v", held.Refresh, held.Lease)
		}
		time.Sleep(4*time.Minute + 30*time.Second)
		near := b.fetch(t, again(req, held))
		if wait := time.Until(near.Refresh); !near.Unchanged || wait < 30*time.Second || wait > 32*time.Second {
			t.Errorf("half a minute before the rotation: unchanged %v, refresh in %v", near.Unchanged, wait)
		}
		rotate("two")
		if files := text(b.fetch(t, again(req, near))); files["password"] != "two" {
			t.Errorf("after the rotation the password is %q", files["password"])
		}
		if got := b.Logins(); got > 2 {
			t.Errorf("%d logins, want one, and one to learn that nothing is leased", got)
		}
	})
}

func TestReadsOfAFetchRunTogetherUpToALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true})
		b.KV1("kv")
		var mu sync.Mutex
		var running, most int // guarded by mu
		count := func(n int) {
			mu.Lock()
			defer mu.Unlock()
			running += n
			most = max(most, running)
		}
		var list strings.Builder
		for i := range 3 * maxParallel {
			path := fmt.Sprintf("kv/%d", i)
			fmt.Fprintf(&list, "- {objectName: a%d, secretPath: %s, secretKey: k}\n", i, path)
			b.Respond(path, func(w http.ResponseWriter, _ *http.Request) {
				count(1)
				time.Sleep(time.Second)
				count(-1)
				_, _ = w.Write([]byte(`{"data":{"k":"v"}}`))
			})
		}
		begin := time.Now()
		if files := b.fetch(t, b.ask(list.String())).Files; len(files) != 3*maxParallel {
			t.Errorf("%d files, want %d", len(files), 3*maxParallel)
		}
		if took := time.Since(begin); most != maxParallel || took != 3*time.Second {
			t.Errorf("at most %d reads at once, %v in all; want %d, and three rounds of a second", most, took, maxParallel)
		}
	})
}
