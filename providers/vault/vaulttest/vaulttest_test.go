package vaulttest_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/providers/vault/vaulttest"
)

// newShop returns a server without a network, with an engine of each kind.
func newShop(t testing.TB, grant vaulttest.Grant) (*vaulttest.Server, *client) {
	t.Helper()
	s := vaulttest.New(t, &vaulttest.Options{Pipe: true})
	s.KV2("secret").Put("db", map[string]any{"password": "canary"})
	s.Database("db").Role("ro", vaulttest.Lifetime{TTL: time.Minute, MaxTTL: 3 * time.Minute})
	s.Kubernetes("kubernetes").Role("app", vaulttest.Role{Namespace: "shop", ServiceAccount: "app", Audience: "vault", Grant: grant})
	return s, newClient(t, s)
}

// inBubble runs f where time passes when nothing else happens.
func inBubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }

func TestATokenLivesAsLongAsItIsRenewedUpToItsMaximum(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, root := newShop(t, vaulttest.Grant{TTL: 2 * time.Second, MaxTTL: 5 * time.Second})
		app := root.logIn("app")
		for range 3 {
			time.Sleep(1500 * time.Millisecond)
			app.want(http.StatusOK, "POST", "auth/token/renew-self", "")
		}
		app.want(http.StatusOK, "GET", "secret/data/db", "")
		time.Sleep(time.Second) // the server reckons in whole seconds, and adds a part of one
		app.want(http.StatusForbidden, "GET", "auth/token/lookup-self", "")
		if got := s.Tokens(); len(got) != 0 {
			t.Errorf("tokens %v, want none", got)
		}
	})
}

func TestAPeriodicTokenLivesForEver(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		_, root := newShop(t, vaulttest.Grant{Period: time.Hour})
		app := root.logIn("app")
		for range 24 * 40 {
			time.Sleep(59 * time.Minute)
			app.want(http.StatusOK, "POST", "auth/token/renew-self", "")
		}
	})
}

func TestALeaseEndsAtItsTimeAndAtItsMaximum(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, root := newShop(t, vaulttest.Grant{})
		app := root.logIn("app")
		answer := app.want(http.StatusOK, "GET", "db/creds/ro", "")
		renewal := `{"lease_id":"` + answer["lease_id"].(string) + `"}`
		user := answer["data"].(map[string]any)
		works := func() bool { return s.Database("db").Login(user["username"].(string), user["password"].(string)) }
		for range 3 {
			time.Sleep(50 * time.Second)
			app.want(http.StatusOK, "PUT", "sys/leases/renew", renewal)
		}
		if !works() || len(s.Leases("db/")) != 1 {
			t.Error("the lease is renewed, but the user is gone")
		}
		time.Sleep(31 * time.Second)
		app.want(http.StatusBadRequest, "PUT", "sys/leases/renew", renewal)
		if works() || len(s.Leases("")) != 0 {
			t.Error("the lease is over, but the user is there")
		}
	})
}

func TestLeasesEndWithTheirToken(t *testing.T) {
	ends := map[string]func(s *vaulttest.Server, app *client){
		"it revokes itself": func(_ *vaulttest.Server, app *client) {
			app.want(http.StatusNoContent, "POST", "auth/token/revoke-self", "")
		},
		"it expires":     func(*vaulttest.Server, *client) { time.Sleep(31 * time.Second) },
		"it is revoked":  func(s *vaulttest.Server, app *client) { s.RevokeToken(app.token) },
		"all are":        func(s *vaulttest.Server, _ *client) { s.RevokeTokens() },
		"its mount goes": func(s *vaulttest.Server, _ *client) { s.Unmount("db") },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T) {
				s, root := newShop(t, vaulttest.Grant{TTL: 30 * time.Second})
				app := root.logIn("app")
				app.want(http.StatusOK, "GET", "db/creds/ro", "")
				app.want(http.StatusOK, "GET", "db/creds/ro", "")
				root.want(http.StatusOK, "GET", "db/creds/ro", "")
				keep := 1
				if name == "its mount goes" {
					keep = 0
				}
				if end(s, app); len(s.Leases("db/creds/ro/")) != keep {
					t.Errorf("leases %v, want %d", s.Leases(""), keep)
				}
			})
		})
	}
}

func TestABatchTokenIsNeverRevoked(t *testing.T) {
	inBubble(t, func(t *testing.T) {
		s, root := newShop(t, vaulttest.Grant{TTL: 30 * time.Second, Batch: true})
		app := root.logIn("app")
		if got := app.want(http.StatusOK, "GET", "db/creds/ro", "")["lease_duration"]; got != 30.0 {
			t.Errorf("lease_duration %v, want what the token has left: 30", got)
		}
		app.want(http.StatusBadRequest, "POST", "auth/token/revoke-self", "")
		app.want(http.StatusOK, "GET", "secret/data/db", "")
		time.Sleep(30 * time.Second)
		app.want(http.StatusForbidden, "GET", "secret/data/db", "")
		if got := s.Leases(""); len(got) != 0 {
			t.Errorf("leases %v, want none", got)
		}
	})
}

func TestPathsAreGrantedAndDenied(t *testing.T) {
	s, root := newShop(t, vaulttest.Grant{Allow: []string{"secret/data/db", "sys/leases/revoke"}, Deny: []string{"secret/data/db/private"}})
	s.KV2("secret").Put("db2", map[string]any{"a": "b"})
	s.KV2("secret").Put("db/private", map[string]any{"a": "b"})
	app := root.logIn("app")
	app.want(http.StatusOK, "GET", "secret/data/db", "")
	app.want(http.StatusForbidden, "GET", "secret/data/db2", "")
	app.want(http.StatusForbidden, "GET", "secret/data/db/private", "")
	app.want(http.StatusForbidden, "GET", "secret/metadata/db", "")
	app.want(http.StatusForbidden, "GET", "db/creds/ro", "")
	app.want(http.StatusNoContent, "PUT", "sys/leases/revoke", `{"lease_id":"x"}`)
	app.want(http.StatusOK, "GET", "sys/internal/ui/mounts/secret/data/db", "")
	app.want(http.StatusForbidden, "GET", "sys/internal/ui/mounts/db/creds/ro", "")

	s.Deny("secret/data")
	app.want(http.StatusForbidden, "GET", "secret/data/db", "")
	app.want(http.StatusForbidden, "GET", "sys/internal/ui/mounts/secret/data/db", "")
	root.want(http.StatusOK, "GET", "secret/data/db", "")
	s.Allow("secret/data")
	app.want(http.StatusOK, "GET", "secret/data/db", "")
}

func TestNamespacesHaveSecretsOfTheirOwn(t *testing.T) {
	s, root := newShop(t, vaulttest.Grant{})
	team := s.In("org/team")
	team.KV2("secret").Put("only", map[string]any{"a": "b"})
	root.want(http.StatusNotFound, "GET", "secret/data/only", "")
	root.want(http.StatusOK, "GET", "org/team/secret/data/only", "")
	own := root.as(team.Token(vaulttest.Grant{}))
	own.want(http.StatusOK, "GET", "org/team/secret/data/only", "")
	own.want(http.StatusForbidden, "GET", "secret/data/db", "")
	root.logIn("app").want(http.StatusOK, "GET", "org/team/secret/data/only", "") // as the grant allows all of the root namespace
}

func TestAnIssuedCertificateIsReal(t *testing.T) {
	s := vaulttest.New(t, nil)
	s.PKI("pki").Role("web", vaulttest.PKIRole{MaxTTL: time.Hour, Domains: []string{"test"}})
	data := newClient(t, s).want(http.StatusOK, "POST", "pki/issue/web", `{"common_name":"a.test","alt_names":"b.test","ttl":"10m"}`)["data"].(map[string]any)
	if _, err := tls.X509KeyPair([]byte(data["certificate"].(string)), []byte(data["private_key"].(string))); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(data["certificate"].(string)))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.PKI("pki").CAPEM())
	if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: "b.test"}); err != nil {
		t.Error(err)
	}
	if got := time.Unix(int64(data["expiration"].(float64)), 0); !got.Equal(cert.NotAfter) || time.Until(got) > 10*time.Minute {
		t.Errorf("expiration %v, want that of the certificate, %v", got, cert.NotAfter)
	}
}

func TestOldVersionsGo(t *testing.T) {
	s, root := newShop(t, vaulttest.Grant{})
	for n := 2; n <= 12; n++ {
		if got := s.KV2("secret").Put("db", map[string]any{"n": n}); got != n {
			t.Fatalf("Put returned version %d, want %d", got, n)
		}
	}
	root.want(http.StatusNotFound, "GET", "secret/data/db?version=2", "")
	root.want(http.StatusOK, "GET", "secret/data/db?version=3", "")
	metadata := root.want(http.StatusOK, "GET", "secret/metadata/db", "")["data"].(map[string]any)
	if got, want := metadata["oldest_version"], 3.0; got != want || len(metadata["versions"].(map[string]any)) != 10 {
		t.Errorf("metadata %v, want the versions from %v", metadata, want)
	}
}

func TestTheServerTellsWhatItGot(t *testing.T) {
	s, root := newShop(t, vaulttest.Grant{})
	app := root.logIn("app")
	app.want(http.StatusOK, "GET", "secret/data/db?version=1", "")
	accessor := s.Tokens()[0]
	var got []vaulttest.Request
	for _, r := range s.Requests() {
		if r.Time.IsZero() {
			t.Errorf("%s %s has no time", r.Method, r.Path)
		}
		r.Time, r.Size = time.Time{}, min(r.Size, 1)
		got = append(got, r)
	}
	want := []vaulttest.Request{
		{Method: "POST", Path: "auth/kubernetes/login", Size: 1},
		{Method: "GET", Path: "secret/data/db", Query: "version=1", Accessor: accessor},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("requests (-want +got):\n%s", diff)
	}
	if s.Count("GET", "secret/") != 1 || s.Count("", "") != 2 || s.Count("PUT", "") != 0 || s.Logins() != 1 || s.TokensIssued() != 1 {
		t.Errorf("counts are wrong: %v", s.Requests())
	}
	s.ResetRequests()
	if len(s.Requests()) != 0 || s.Logins() != 0 || !slices.Equal(s.Tokens(), []string{accessor}) {
		t.Error("ResetRequests forgets requests and logins, and no token")
	}
}
