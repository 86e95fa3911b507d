package vaulttest_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/keymount/keymount/providers/vault/vaulttest"
)

// networks are the two kinds of connections that a server can have.
var networks = map[string]*vaulttest.Options{"tcp": nil, "pipe": {Pipe: true}}

func onEachNetwork(t *testing.T, f func(t *testing.T, s *vaulttest.Server, root *client)) {
	for name, opts := range networks {
		t.Run(name, func(t *testing.T) {
			s := vaulttest.New(t, opts)
			s.KV1("kv").Put("a", map[string]any{"b": "c"})
			f(t, s, newClient(t, s))
		})
	}
}

func TestABrokenServerDropsConnections(t *testing.T) {
	onEachNetwork(t, func(t *testing.T, s *vaulttest.Server, root *client) {
		root.want(http.StatusOK, "GET", "kv/a", "")
		s.Break()
		for range 2 {
			if resp, err := root.send(t.Context(), "GET", "kv/a", ""); err == nil {
				resp.Body.Close()
				t.Errorf("status %d, want no answer", resp.StatusCode)
			}
		}
		s.Repair()
		root.want(http.StatusOK, "GET", "kv/a", "")
	})
}

func TestARestartedServerHasItsDataAndNoConnections(t *testing.T) {
	onEachNetwork(t, func(t *testing.T, s *vaulttest.Server, root *client) {
		token := s.Token(vaulttest.Grant{})
		waiting := s.Hang()
		failed := make(chan error, 1)
		go func() {
			resp, err := root.send(context.Background(), "POST", "kv/a", "{}")
			if err == nil {
				resp.Body.Close()
			}
			failed <- err
		}()
		<-waiting
		s.Restart()
		if err := <-failed; err == nil {
			t.Error("the request survived the restart")
		}
		s.Repair()
		root.as(token).want(http.StatusOK, "GET", "kv/a", "")
	})
}

func TestAHangingServerAnswersAfterItsRepair(t *testing.T) {
	onEachNetwork(t, func(t *testing.T, s *vaulttest.Server, root *client) {
		waiting := s.Hang()
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() { root.want(http.StatusOK, "GET", "kv/a", "") })
		}
		<-waiting
		s.Repair()
		calls.Wait()

		ctx, cancel := context.WithCancel(t.Context())
		waiting = s.Hang()
		calls.Go(func() { <-waiting; cancel() })
		if resp, err := root.send(ctx, "GET", "kv/a", ""); !errors.Is(err, context.Canceled) {
			if err == nil {
				resp.Body.Close()
			}
			t.Errorf("error %v, want that of the caller who gave up", err)
		}
		calls.Wait()
	})
}

func TestAHangingServerEndsWithItsTest(t *testing.T) {
	var calls sync.WaitGroup
	t.Run("hangs", func(t *testing.T) {
		s := vaulttest.New(t, nil)
		root, waiting := newClient(t, s), s.Hang()
		calls.Go(func() {
			if resp, err := root.send(context.Background(), "GET", "kv/a", ""); err == nil {
				resp.Body.Close()
			}
		})
		<-waiting
	})
	calls.Wait()
}

func TestFailuresAreCounted(t *testing.T) {
	s := vaulttest.New(t, nil)
	s.KV1("kv").Put("a", map[string]any{"b": "c"})
	root := newClient(t, s)
	s.Fail(2, http.StatusTooManyRequests, http.Header{"Retry-After": {"7"}}, "kv/a")
	s.Fail(1, http.StatusInternalServerError, nil)
	resp, err := root.send(t.Context(), "GET", "kv/a", "")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") != "7" {
		t.Errorf("status %d and header %v, want 429 and Retry-After", resp.StatusCode, resp.Header)
	}
	root.want(http.StatusInternalServerError, "GET", "auth/token/lookup-self", "")
	root.want(http.StatusOK, "GET", "auth/token/lookup-self", "")
	root.want(http.StatusTooManyRequests, "GET", "kv/a", "")
	root.want(http.StatusOK, "GET", "kv/a", "")
	s.Fail(-1, http.StatusServiceUnavailable, nil, "kv")
	for range 5 {
		root.want(http.StatusServiceUnavailable, "GET", "kv/a", "")
	}
	s.Repair()
	root.want(http.StatusOK, "GET", "kv/a", "")
}

func TestASealedServerSaysSo(t *testing.T) {
	s := vaulttest.New(t, nil)
	root := newClient(t, s)
	root.want(http.StatusOK, "GET", "sys/health", "")
	s.Seal()
	root.want(http.StatusServiceUnavailable, "GET", "auth/token/lookup-self", "")
	root.want(http.StatusServiceUnavailable, "GET", "sys/health", "")
	s.Unseal()
	root.want(http.StatusOK, "GET", "auth/token/lookup-self", "")
}

func TestRawAnswersGoOutAsTheyAre(t *testing.T) {
	s := vaulttest.New(t, nil)
	s.KV1("kv").Put("a", map[string]any{"b": "c"})
	root := newClient(t, s)
	s.Respond("kv/a", vaulttest.Raw(http.StatusOK, "<html>", "Content-Type: text/html"))
	resp, err := root.send(t.Context(), "GET", "kv/a?x=y", "")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || string(body) != "<html>" || resp.Header.Get("Content-Type") != "text/html" {
		t.Errorf("body %q, header %v, error %v; want those of Raw", body, resp.Header, err)
	}
	s.Respond("kv/a", vaulttest.Raw(http.StatusTemporaryRedirect, "", "Location: /v1/auth/token/lookup-self"))
	if got := root.want(http.StatusOK, "GET", "kv/a", "")["data"].(map[string]any)["path"]; got != "auth/token/create" {
		t.Errorf("path %v, want that of the root token", got)
	}
	s.Respond("kv/a", nil)
	root.want(http.StatusOK, "GET", "kv/a", "")
}

func TestManyClientsAtOnce(t *testing.T) {
	s := vaulttest.New(t, nil)
	s.Database("db").Role("ro", vaulttest.Lifetime{})
	s.Kubernetes("kubernetes").Role("app", vaulttest.Role{})
	root := newClient(t, s)
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for range 5 {
				app := root.logIn("app")
				app.want(http.StatusOK, "GET", "db/creds/ro", "")
				s.KV2("secret").Put("x", map[string]any{"a": strings.Repeat("b", 100)})
				app.want(http.StatusOK, "GET", "secret/data/x", "")
				app.want(http.StatusNoContent, "POST", "auth/token/revoke-self", "")
			}
		})
	}
	clients.Wait()
	if len(s.Leases("")) != 0 || len(s.Tokens()) != 0 || s.TokensIssued() != 40 || s.Logins() != 40 {
		t.Errorf("%d leases, %d tokens of %d, %d logins; want 0, 0 of 40, 40", len(s.Leases("")), len(s.Tokens()), s.TokensIssued(), s.Logins())
	}
}
