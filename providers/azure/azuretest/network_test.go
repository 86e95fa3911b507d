package azuretest_test

import (
	"context"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"

	"github.com/keymount/keymount/providers/azure/azuretest"
)

func sha1Of(der []byte) string {
	sum := sha1.Sum(der)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// assert returns what makes tokens of shop/web.
func assert(s *azuretest.Server, audience string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) {
		return s.ServiceAccountToken("shop", "web", audience, time.Hour), nil
	}
}

// A proxied transport sends every request to the API server of a cluster.
type proxied struct{ *http.Transport }

func (p proxied) Do(r *http.Request) (*http.Response, error) {
	r.URL.Host = "kubernetes.default.svc.cluster.local"
	return p.RoundTrip(r)
}

// accessToken returns one of the app shop.
func accessToken(t testing.TB, s *azuretest.Server) string {
	t.Helper()
	cred := federated(t, s, func() string { return s.ServiceAccountToken("shop", "web", exchange, time.Hour) })
	got, err := cred.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{kv1[:8] + vaults + "/.default"}})
	if err != nil {
		t.Fatal(err)
	}
	return got.Token
}

// get returns the status, header and body of an answer.
func get(t testing.TB, c *http.Client, address, token string) (int, http.Header, string) {
	t.Helper()
	r := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, address, nil))
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	resp := must[*http.Response](t)(c.Do(r))
	defer resp.Body.Close()
	return resp.StatusCode, resp.Header, string(must[[]byte](t)(io.ReadAll(resp.Body)))
}

func TestAVaultChallengesWhoHasNoGoodToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, &azuretest.Options{Pipe: true, TokenLife: 10 * time.Minute})
		other := newShop(t, &azuretest.Options{Pipe: true})
		s.Vault("kv1").PutSecret("db", "one")
		c, good := network(t, s), accessToken(t, s)
		const path = kv1 + "/secrets/db?api-version=7.4"
		want := fmt.Sprintf(`Bearer authorization="https://login.microsoftonline.com/%s", resource="https://vault.azure.net"`, s.Tenant)
		for _, token := range []string{"", "x", good[:len(good)-4] + "AAAA", accessToken(t, other), s.ServiceAccountToken("shop", "web", "https://vault.azure.net", time.Hour)} {
			status, header, body := get(t, c, path, token)
			expect(t, "status", status, http.StatusUnauthorized)
			expect(t, "challenge", header.Get("Www-Authenticate"), want)
			if !strings.Contains(body, "AKV10") {
				t.Errorf("body %s", body)
			}
		}
		status, _, body := get(t, c, path, good)
		expect(t, "status with a good token: "+body, status, http.StatusOK)
		status, header, _ := get(t, c, "https://kv1.vault.azure.cn/secrets/db?api-version=7.4", good)
		expect(t, "status in another cloud", status, http.StatusUnauthorized)
		expect(t, "challenge there", strings.Contains(header.Get("Www-Authenticate"), "login.chinacloudapi.cn"), true)
		time.Sleep(10 * time.Minute)
		status, _, body = get(t, c, path, good)
		expect(t, "status of an old token", status, http.StatusUnauthorized)
		expect(t, "reason", strings.Contains(body, "AKV10034"), true)
	})
}

func TestAVaultJudgesWhatIsAsked(t *testing.T) {
	s := newShop(t, nil)
	for i := range 30 {
		s.Vault("kv1").PutSecret(fmt.Sprintf("s%02d", i), "one")
	}
	c, token := network(t, s), accessToken(t, s)
	for path, want := range map[string]int{
		"/secrets/s00?api-version=7.4": 200, "/secrets/s00/?api-version=2025-07-01&x=y": 200, "/secrets/?api-version=7.6-preview.1": 200,
		"/secrets/s00": 400, "/secrets/s00?api-version=1": 400, "/secrets?api-version=7.4&maxresults=26": 400, "/secrets?api-version=7.4&maxresults=x": 400,
		"/secrets?api-version=7.4&$skiptoken=*": 400, "/storage?api-version=7.4": 404,
		"/secrets/s00/x/y?api-version=7.4": 404, "/?api-version=7.4": 404,
	} {
		status, _, body := get(t, c, kv1+path, token)
		expect(t, "status of "+path+": "+body, status, want)
	}
	var page struct {
		Value []struct{ ID string }
		Next  string `json:"nextLink"`
	}
	for _, want := range []int{25, 5} {
		address := kv1 + "/secrets?api-version=7.4"
		if page.Next != "" {
			address = page.Next
		}
		_, _, body := get(t, c, address, token)
		page.Next = ""
		if err := json.Unmarshal([]byte(body), &page); err != nil {
			t.Fatal(err)
		}
		expect(t, "items", len(page.Value), want)
	}
	expect(t, "last", page.Value[4].ID, kv1+"/secrets/s29")
	expect(t, "next page", page.Next, "")
	_, _, body := get(t, c, kv1+"/secrets?api-version=7.4&maxresults=7", token)
	if err := json.Unmarshal([]byte(body), &page); err != nil {
		t.Fatal(err)
	}
	next := must[*url.URL](t)(url.Parse(page.Next))
	expect(t, "items", len(page.Value), 7)
	expect(t, "next page", []string{next.Host, next.Query().Get("maxresults"), next.Query().Get("api-version")}, []string{"kv1.vault.azure.net:443", "7", "7.4"})
}

func TestAnAddressLeadsToWhatItNames(t *testing.T) {
	s := newShop(t, nil)
	for address, want := range map[string]string{
		"kv2.vault.azure.net:443": "no such host", "169.254.169.253:80": "connection refused", "kv1.vault.azure.net:80": "connection refused", "x": "missing port",
	} {
		conn, err := s.Dial(t.Context(), "tcp", address)
		if err == nil {
			conn.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Dial(%s) = %v, want %s", address, err, want)
		}
	}
	_, err := network(t, s).Get("https://kv2.vault.azure.net/")
	var unknown *net.DNSError
	if !errors.As(err, &unknown) || !unknown.IsNotFound || unknown.Name != "kv2.vault.azure.net" {
		t.Errorf("error %v of a vault that is not there", err)
	}
	c := network(t, s)
	c.Transport.(*http.Transport).TLSClientConfig.ServerName = "login.microsoftonline.com"
	status, _, _ := get(t, c, kv1+"/secrets/db", "")
	expect(t, "status under another name", status, http.StatusMisdirectedRequest)
	for _, address := range []string{"https://www.example/", "https://login.microsoftonline.com/x", "https://a.ests.aks/x"} {
		status, _, _ := get(t, network(t, s), address, "")
		expect(t, "status of "+address, status, http.StatusNotFound)
	}
}

// ordinary returns a client that knows the proxy and the CA file, and nothing else.
func ordinary(t testing.TB, s *azuretest.Server) *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(must[[]byte](t)(os.ReadFile(s.CAFile)))
	transport := &http.Transport{
		Proxy: http.ProxyURL(must[*url.URL](t)(url.Parse(s.ProxyURL))), TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestTheProxyLeadsAnOrdinaryClient(t *testing.T) {
	s := newShop(t, nil)
	s.Vault("kv1").PutSecret("db", "one")
	c := ordinary(t, s)
	status, _, body := get(t, c, kv1+"/secrets/db?api-version=7.4", accessToken(t, s))
	expect(t, "status", status, http.StatusOK)
	expect(t, "value", strings.Contains(body, `"value":"one"`), true)
	if _, err := c.Get("https://kv2.vault.azure.net/"); err == nil {
		t.Error("a vault that is not there is found")
	}
	status, _, _ = get(t, c, "http://169.254.169.254/metadata/identity/oauth2/token", "")
	expect(t, "status of IMDS", status, http.StatusBadRequest)
	s.IMDS().Off()
	status, _, _ = get(t, c, "http://169.254.169.254/metadata/identity/oauth2/token", "")
	expect(t, "status of IMDS that is off", status, http.StatusBadGateway)
	status, _, _ = get(t, c, "http://kv1.vault.azure.net/secrets/db", "")
	expect(t, "status of a vault without TLS", status, http.StatusBadGateway)
}

func TestCertificatesAreOfTheCA(t *testing.T) {
	s := newShop(t, nil)
	c := network(t, s)
	c.Transport.(*http.Transport).TLSClientConfig.RootCAs = x509.NewCertPool()
	if resp, err := c.Get(kv1); err == nil {
		resp.Body.Close()
		t.Error("a client that trusts nobody is served")
	}
	conn := must[net.Conn](t)(s.Dial(t.Context(), "tcp", "203.0.113.1:443"))
	defer conn.Close()
	if err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context()); err == nil {
		t.Error("a client that asks for no name has a certificate")
	}
}

func TestAServerEndsWithItsTest(t *testing.T) {
	var s *azuretest.Server
	t.Run("it", func(t *testing.T) {
		s = newShop(t, nil)
		status, _, _ := get(t, ordinary(t, s), kv1, "")
		expect(t, "status", status, http.StatusNotFound)
	})
	if conn, err := s.Dial(t.Context(), "tcp", "kv1.vault.azure.net:443"); err == nil {
		conn.Close()
		t.Error("it is still there")
	}
	if conn, err := net.Dial("tcp", strings.TrimPrefix(s.ProxyURL, "http://")); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}
