package vaulttest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/keymount/keymount/providers/vault/vaulttest"
)

// A client sends requests to a server.
type client struct {
	http.Client
	t     testing.TB
	s     *vaulttest.Server
	token string
}

// newClient returns a client with the root token.
func newClient(t testing.TB, s *vaulttest.Server) *client {
	t.Helper()
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(s.CAPEM())
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	if s.URL == "https://127.0.0.1:8200" { // a pipe
		transport.DialContext = s.Dial
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &client{http.Client{Transport: transport}, t, s, vaulttest.RootToken}
}

// send returns the answer, or why there is none.
func (c *client) send(ctx context.Context, method, path, body string) (*http.Response, error) {
	c.t.Helper()
	r, err := http.NewRequestWithContext(ctx, method, c.s.URL+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", c.token)
	return c.Do(r)
}

// do returns the status, and the body as a decoded object if it is one.
func (c *client) do(method, path, body string) (int, map[string]any) {
	c.t.Helper()
	resp, err := c.send(c.t.Context(), method, path, body)
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	var decoded map[string]any
	_ = json.Unmarshal(raw, &decoded) // nil if it is none
	return resp.StatusCode, decoded
}

// want sends the request and checks the status of the answer, which it returns.
func (c *client) want(status int, method, path, body string) map[string]any {
	c.t.Helper()
	got, answer := c.do(method, path, body)
	if got != status {
		c.t.Errorf("%s %s %s: status %d, want %d: %v", method, path, body, got, status, answer)
	}
	return answer
}

// as returns a client with another token.
func (c *client) as(token string) *client {
	other := *c
	other.token = token
	return &other
}

// logIn returns a client with the token of a login to auth/kubernetes.
func (c *client) logIn(role string) *client {
	c.t.Helper()
	jwt := c.s.ServiceAccountToken("shop", "app", "vault", time.Hour)
	answer := c.as("").want(http.StatusOK, "POST", "auth/kubernetes/login", fmt.Sprintf(`{"role":%q,"jwt":%q}`, role, jwt))
	auth, _ := answer["auth"].(map[string]any)
	token, _ := auth["client_token"].(string)
	return c.as(token)
}

// clientCertificate returns a client's certificate and its CA.
func clientCertificate(t testing.TB, opts *vaulttest.Options) (ca []byte, client tls.Certificate) {
	t.Helper()
	s := vaulttest.New(t, opts)
	pki := s.PKI("pki")
	pki.Role("client", vaulttest.PKIRole{})
	c := newClient(t, s)
	data := c.want(http.StatusOK, "POST", "pki/issue/client", `{"common_name":"client"}`)["data"].(map[string]any)
	client, err := tls.X509KeyPair([]byte(data["certificate"].(string)), []byte(data["private_key"].(string)))
	if err != nil {
		t.Fatal(err)
	}
	return pki.CAPEM(), client
}

// request returns a signing request for svc.ns.
func request(t testing.TB) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "svc.ns"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}))
}
