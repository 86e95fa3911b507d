package vault

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/vault/vaulttest"
)

// of returns values as the Secret of a pod.
func of(values map[string]string) map[string]secret.Value {
	credentials := make(map[string]secret.Value)
	for name, value := range values {
		credentials[name] = secret.New([]byte(value))
	}
	return credentials
}

// A method is a way to log in that a server admits, and what it refuses.
type method struct {
	set    func(t *testing.T, b *backend, req *provider.Request)
	spoil  func(req *provider.Request)
	logins int // for each identity
}

func methods() map[string]method {
	otherToken := func(r *provider.Request) {
		r.Tokens["vault"] = provider.Token{Value: secret.New([]byte("c4n4ry"))}
	}
	return map[string]method{
		"kubernetes": {func(*testing.T, *backend, *provider.Request) {}, otherToken, 1},
		"jwt": {func(_ *testing.T, b *backend, _ *provider.Request) {
			b.JWT("jwt").Role("shop", vaulttest.Role{Namespace: "shop", ServiceAccount: "web", Audience: "vault"})
		}, otherToken, 1},
		"approle": {func(_ *testing.T, b *backend, r *provider.Request) {
			role, id := b.AppRole("approle").Role("shop", vaulttest.Grant{})
			r.Credentials = of(map[string]string{"role_id": role, "secret_id": id})
		}, func(r *provider.Request) { r.Credentials["secret_id"] = secret.New([]byte("c4n4ry")) }, 1},
		"token": {func(_ *testing.T, b *backend, r *provider.Request) {
			r.Credentials = of(map[string]string{"token": b.Token(vaulttest.Grant{})})
		}, func(r *provider.Request) { r.Credentials = of(map[string]string{"token": "c4n4ry"}) }, 0},
		"cert": {func(t *testing.T, b *backend, r *provider.Request) {
			clients := newAuthority(t, "clients")
			b.Cert("cert").Role("shop", vaulttest.CertRole{CA: clients.pem, CommonName: "web"})
			r.Credentials = clientSecret(t, clients, "web")
		}, nil, 1},
	}
}

// clientSecret is a Secret of type kubernetes.io/tls.
func clientSecret(t *testing.T, a *authority, name string) map[string]secret.Value {
	t.Helper()
	dir := t.TempDir()
	a.pair(dir, &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	values := make(map[string]string)
	for _, file := range []string{"tls.crt", "tls.key"} {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		values[file] = string(text)
	}
	return of(values)
}

func TestEachMethodLogsIn(t *testing.T) {
	for name, m := range methods() {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, backendOptions{})
			b.putThree()
			req := b.ask(three)
			req.Parameters["vaultAuthMethod"] = name
			m.set(t, b, req)
			held := b.fetch(t, req)
			if !b.fetch(t, again(req, held)).Unchanged || b.Logins() != m.logins {
				t.Errorf("%d logins, want %d", b.Logins(), m.logins)
			}
			if m.spoil == nil {
				return
			}
			b.provider = b.start(t)
			m.spoil(req)
			_, err := b.provider.Fetch(t.Context(), req)
			if !errors.Is(err, provider.ErrDenied) || strings.Contains(err.Error(), "c4n4ry") {
				t.Errorf("with something else: error %v, want ErrDenied without it", err)
			}
		})
	}
}

// Another volume of the same server must not use the session, nor the
// connection, of who has logged in.
func TestACertificateIsThePodsOwn(t *testing.T) {
	b := newBackend(t, backendOptions{})
	b.putThree()
	clients := newAuthority(t, "clients")
	b.Cert("cert").Role("shop", vaulttest.CertRole{CA: clients.pem, CommonName: "web"})
	req := b.ask(three)
	req.Parameters["vaultAuthMethod"] = "cert"
	req.Credentials = clientSecret(t, clients, "web")
	b.fetch(t, req)
	other := b.ask(three)
	other.Parameters["vaultAuthMethod"] = "cert"
	other.Credentials = clientSecret(t, clients, "intruder")
	if _, err := b.provider.Fetch(t.Context(), other); !errors.Is(err, provider.ErrDenied) {
		t.Errorf("with another certificate: error %v, want ErrDenied", err)
	}
	none := b.ask(three)
	none.Parameters["vaultAuthMethod"] = "cert"
	if _, err := b.provider.Fetch(t.Context(), none); !errors.Is(err, provider.ErrInvalid) {
		t.Errorf("without a certificate: error %v, want ErrInvalid", err)
	}
}

// A token of the environment would be everybody's.
func TestNoTokenIsTakenFromTheEnvironment(t *testing.T) {
	t.Setenv("VAULT_TOKEN", vaulttest.RootToken)
	b := newBackend(t, backendOptions{grant: vaulttest.Grant{Allow: []string{"nothing/"}}})
	b.putThree()
	p := newProvider(t, Vault, &Options{Address: b.URL, CACert: b.CAFile, Environment: os.Getenv})
	if _, err := p.Fetch(t.Context(), b.ask(three)); !errors.Is(err, provider.ErrDenied) {
		t.Errorf("error %v, want ErrDenied", err)
	}
	for _, r := range b.Requests() {
		if r.Path != "auth/kubernetes/login" && r.Accessor == "" {
			t.Errorf("%s %s came with a token that no login gave", r.Method, r.Path)
		}
	}
}

func TestCredentialsOfAllMethodsAreGivenBack(t *testing.T) {
	for name, m := range methods() {
		if name == "token" {
			continue // its lease is revoked by a right that it has
		}
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, backendOptions{})
			req := b.ask(credentials)
			req.Parameters["vaultAuthMethod"] = name
			m.set(t, b, req)
			bundle := b.fetch(t, req)
			b.hasLeases(t, 1)
			if err := b.provider.Release(t.Context(), bundle.Lease); err != nil {
				t.Error(err)
			}
			b.hasLeases(t, 0)
		})
	}
}

func TestBatchTokensLeaseTheirShortLife(t *testing.T) {
	b := newBackend(t, backendOptions{grant: vaulttest.Grant{Batch: true, TTL: time.Minute, Allow: []string{"database/", "sys/leases/revoke"}}})
	v := b.volume(t, credentials)
	if left := time.Until(v.held.Lease.Expires); left > time.Minute {
		t.Errorf("the lease lives %v, longer than its token", left)
	}
	if err := b.provider.Release(t.Context(), v.held.Lease); err != nil {
		t.Fatal(err)
	}
	b.hasLeases(t, 0)
}
