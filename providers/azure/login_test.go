package azure

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/azure/azuretest"
)

// refused expects a fetch to fail for a reason, with all parts in its text and
// no token or secret of the request.
func (b *backend) refused(t *testing.T, req *provider.Request, reason error, parts ...string) {
	t.Helper()
	_, err := b.provider.Fetch(t.Context(), req)
	if !errors.Is(err, reason) {
		t.Fatalf("Fetch = %v, want %v", err, reason)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("Fetch = %v, want %q in it", err, part)
		}
	}
	for _, token := range req.Tokens {
		if strings.Contains(err.Error(), string(token.Value.Reveal())) {
			t.Errorf("the error shows a token")
		}
	}
	for name, value := range req.Credentials {
		if name != "clientid" && strings.Contains(err.Error(), string(value.Reveal())) {
			t.Errorf("the error shows the %s", name)
		}
	}
}

func TestAPodReadsAsItsServiceAccount(t *testing.T) {
	b := newBackend(t)
	b.vault.PutSecret("db", "x")
	expect(t, "files", contents(b.fetch(t, b.ask(list("secret", "db")))), map[string]string{"db": "x"})
	calls := b.Calls()
	last := calls[len(calls)-1]
	expect(t, "client", last.Client, testClient)
	expect(t, "path", last.Path, "/secrets/db/")
}

func TestWhoMayNotLogInIsToldWhy(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(b *backend, req *provider.Request)
		parts  []string
	}{
		{"another service account", func(b *backend, req *provider.Request) { req.Tokens = b.tokens("den", "web") },
			[]string{"AADSTS700213", "system:serviceaccount:shop:web", "api://AzureADTokenExchange", "service account shop/web"}},
		{"another cluster", func(b *backend, req *provider.Request) {
			other := azuretest.New(t, nil)
			token := other.ServiceAccountToken("shop", "web", workloadIdentity.audience(), time.Hour)
			req.Tokens[workloadIdentity.audience()] = provider.Token{Value: secret.New([]byte(token)), Expires: time.Now().Add(time.Hour)}
		}, []string{"AADSTS7"}},
		{"an application that is not there", func(_ *backend, req *provider.Request) { req.Parameters["clientID"] = anyTenant }, []string{"AADSTS700016", anyTenant}},
		{"a tenant that is not there", func(_ *backend, req *provider.Request) { req.Parameters["tenantID"] = anyTenant }, []string{"tenant " + anyTenant}},
		{"a token that is over", func(b *backend, req *provider.Request) {
			token := b.ServiceAccountToken("shop", "web", workloadIdentity.audience(), -time.Minute)
			req.Tokens[workloadIdentity.audience()] = provider.Token{Value: secret.New([]byte(token)), Expires: time.Now().Add(time.Hour)}
		}, []string{"AADSTS700024"}},
		{"no token", func(_ *backend, req *provider.Request) { req.Tokens = nil }, []string{`audience "api://AzureADTokenExchange"`, "csiDriver.tokenRequests"}},
		{"a service principal without a Secret", func(_ *backend, req *provider.Request) { delete(req.Parameters, "clientID") }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			b.vault.PutSecret("db", "x")
			req := b.ask(list("secret", "db"))
			c.change(b, req)
			reason := provider.ErrDenied
			if c.parts == nil {
				reason, c.parts = provider.ErrInvalid, []string{"nodePublishSecretRef secret is not set"}
			}
			b.refused(t, req, reason, c.parts...)
			expect(t, "reads", b.Count("secrets/get"), 0)
		})
	}
}

// What others of the identity have is of no use to who cannot prove it.
func TestTokensOfOthersAreNotShared(t *testing.T) {
	b := newBackend(t)
	b.vault.PutSecret("db", "x")
	b.fetch(t, b.ask(list("secret", "db")))
	thief := b.ask(list("secret", "db"))
	thief.Pod.Namespace = "den"
	thief.Tokens = b.tokens("den", "web")
	b.refused(t, thief, provider.ErrDenied, "den/web")
	late := b.ask(list("secret", "db"))
	for audience, token := range late.Tokens {
		token.Expires = time.Now().Add(-time.Second)
		late.Tokens[audience] = token
	}
	b.refused(t, late, provider.ErrDenied, "no valid service account token")
}

func TestVolumesThatStartAtOnceShareALogin(t *testing.T) {
	b := newBackend(t)
	b.vault.PutSecret("db", "x")
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := b.provider.Fetch(t.Context(), b.ask(list("secret", "db"))); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	expect(t, "calls", b.counts(), map[string]int{"entra/instance": 1, "entra/openid": 1, "entra/token": 1, "secrets/get": 50})
}

// There used to be a login and a challenge for each volume and poll.
func TestALoginLastsAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackendOf(t, &azuretest.Options{Pipe: true}, nil)
		b.vault.PutSecret("db", "x")
		held := b.fetch(t, b.ask(list("secret", "db")))
		for range 3 * 60 {
			time.Sleep(time.Minute)
			b.poll(t, b.ask(list("secret", "db")), held)
		}
		for _, call := range b.Calls() {
			if call.Code != "" {
				t.Errorf("%s failed with %s", call.Operation, call.Code)
			}
		}
		counts := b.counts()
		if n := counts["entra/token"]; n < 3 || n > 5 || counts["challenge"] != 0 {
			t.Errorf("%d logins and %d challenges in three hours", n, counts["challenge"])
		}
		expect(t, "tokens that are kept", b.provider.wallet.Len(), 1)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		expect(t, "tokens that nobody uses", b.provider.wallet.Len(), 0)
	})
}

func TestAnOutageOfEntraIsBridgedWhileTheTokenLives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackendOf(t, &azuretest.Options{Pipe: true}, nil)
		b.vault.PutSecret("db", "x")
		held := b.fetch(t, b.ask(list("secret", "db")))
		b.Entra().Break()
		time.Sleep(58 * time.Minute)
		b.poll(t, b.ask(list("secret", "db")), held)
		time.Sleep(2 * time.Minute)
		b.refused(t, b.ask(list("secret", "db")), provider.ErrUnavailable, "no token of Entra ID for service account shop/web", "503")
	})
}

func TestATokenThatIsNotAcceptedAnyMoreIsReplacedOnce(t *testing.T) {
	b := newBackend(t)
	b.vault.PutSecret("db", "x")
	b.fetch(t, b.ask(list("secret", "db")))
	revoked := azuretest.Fault{Status: http.StatusUnauthorized, Code: "Unauthorized", Message: "AKV10022: Invalid token.", Times: 1}
	b.vault.Fail("secrets/get", revoked)
	b.Forget()
	b.fetch(t, b.ask(list("secret", "db")))
	expect(t, "logins and reads", []int{b.Count("entra/token"), b.Count("secrets/get")}, []int{1, 2})
	revoked.Times = 0
	b.vault.Fail("secrets/get", revoked)
	b.Forget()
	b.refused(t, b.ask(list("secret", "db")), provider.ErrDenied, "401 Unauthorized", "AKV10022")
	expect(t, "logins and reads", []int{b.Count("entra/token"), b.Count("secrets/get")}, []int{1, 2})
}

// principal returns the request of a service principal.
func (b *backend) principal(credentials map[string]string) *provider.Request {
	req := b.ask(list("secret", "db"), map[string]string{"clientID": ""})
	req.Tokens, req.Credentials = nil, make(map[string]secret.Value)
	for name, value := range credentials {
		req.Credentials[name] = secret.New([]byte(value))
	}
	return req
}

func TestAServicePrincipalReadsWithASecret(t *testing.T) {
	b := newBackend(t)
	b.vault.PutSecret("db", "x")
	b.App(testClient, azuretest.App{Secret: "first canary"})
	held := b.fetch(t, b.principal(map[string]string{"clientid": testClient, "clientsecret": "first canary"}))
	b.poll(t, b.principal(map[string]string{"ClientID": testClient + "\n", "CLIENTSECRET": "first canary\n"}), held)
	expect(t, "logins", b.Count("entra/token"), 1)
	b.refused(t, b.principal(map[string]string{"clientid": testClient, "clientsecret": "second canary"}), provider.ErrDenied, "AADSTS7000215", "service principal "+testClient)
	b.App(testClient, azuretest.App{Secret: "second canary"})
	b.poll(t, b.principal(map[string]string{"clientid": testClient, "clientsecret": "second canary"}), held)
	expect(t, "logins", b.Count("entra/token"), 3)
}

func TestAServicePrincipalReadsWithACertificate(t *testing.T) {
	key := newRSAKey(t)
	certificate := sign(t, "leaf", nil, key.Public(), key, time.Hour)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})) + pems(certificate)
	store, err := pkcs12.Modern.WithRand(rand.Reader).Encode(key, certificate, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]string{"in PEM": text, "in PKCS#12": string(store)} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t)
			b.vault.PutSecret("db", "x")
			b.App(testClient, azuretest.App{Certificate: certificate})
			expect(t, "files", contents(b.fetch(t, b.principal(map[string]string{"clientid": testClient, "clientcertificate": file}))), map[string]string{"db": "x"})
			b.App(testClient, azuretest.App{Certificate: sign(t, "leaf", nil, key.Public(), key, time.Hour)})
			b.provider = b.start(t, nil)
			b.refused(t, b.principal(map[string]string{"clientid": testClient, "clientcertificate": file}), provider.ErrDenied, "AADSTS700027")
		})
	}
}

func TestSecretsOfServicePrincipalsThatAreNone(t *testing.T) {
	b := newBackend(t)
	for want, credentials := range map[string]map[string]string{
		"nodePublishSecretRef secret is not set":      {},
		"could not find clientid in secrets":          {"clientsecret": "canary"},
		"could not find clientsecret in secrets":      {"clientid": testClient},
		"clientid in the Secret":                      {"clientid": "a b", "clientsecret": "canary"},
		"has both clientsecret and clientcertificate": {"clientid": testClient, "clientsecret": "canary", "clientcertificate": "canary"},
		"twice, which differ in their case":           {"clientid": testClient, "ClientID": testClient},
		"it is no PKCS#12 file":                       {"clientid": testClient, "clientcertificate": "canary"},
		"holds no certificate with its private key":   {"clientid": testClient, "clientcertificate": "-----BEGIN X-----\nAAAA\n-----END X-----\n"},
	} {
		b.refused(t, b.principal(credentials), provider.ErrInvalid, want)
	}
	expect(t, "calls", len(b.Calls()), 0)
}

func TestTheManagedIdentityOfTheNode(t *testing.T) {
	const first, second, other = "aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002", "aaaaaaaa-0000-4000-8000-000000000003"
	node := func(b *backend, client string) *provider.Request {
		req := b.ask(list("secret", "db"), map[string]string{"clientID": "", "tenantID": "", "useVMManagedIdentity": "true", "userAssignedIdentityID": client})
		req.Tokens = nil
		return req
	}
	b := newBackend(t)
	b.vault.PutSecret("db", "x")
	b.Machine(first, second)
	b.Forget()
	expect(t, "files", contents(b.fetch(t, node(b, second))), map[string]string{"db": "x"})
	expect(t, "files", contents(b.fetch(t, node(b, ""))), map[string]string{"db": "x"})
	expect(t, "calls", b.counts(), map[string]int{"imds/token": 2, "secrets/get": 2})
	b.vault.Fail("secrets/get", azuretest.Fault{Status: http.StatusUnauthorized, Code: "Unauthorized", Times: 1})
	b.fetch(t, node(b, second))
	expect(t, "calls where the token is not accepted", b.counts(), map[string]int{"imds/token": 1, "secrets/get": 2})
	b.refused(t, node(b, other), provider.ErrDenied, "managed identity "+other, "Identity not found", "is the identity assigned to its virtual machine?")
	b.provider = b.start(t, nil) // the other one has a connection
	b.IMDS().Off()
	b.refused(t, node(b, second), provider.ErrUnavailable, "the metadata service of the node")

	b.provider = b.start(t, &Options{NoManagedIdentity: true})
	b.refused(t, node(b, first), provider.ErrDenied, "--azure-no-managed-identity")
}

func TestAnIdentityThatIsBoundToTheCluster(t *testing.T) {
	b := newBackend(t)
	b.vault.PutSecret("db", "x")
	const name = "abcdefghijklmnop.ests.aks"
	bound := map[string]string{"useAzureTokenProxy": "true"}
	b.provider = b.start(t, &Options{TokenProxy: TokenProxy{Name: name, CAFile: b.CAFile}})
	b.Forget()
	held := b.fetch(t, b.ask(list("secret", "db"), bound))
	counts := b.counts()
	if counts["proxy/token"] != 1 || counts["entra/token"] != 0 || counts["entra/instance"] != 0 {
		t.Errorf("calls = %v, want one for a token, at the proxy", counts)
	}
	b.poll(t, b.ask(list("secret", "db"), bound), held)
	expect(t, "calls of a poll", b.counts(), map[string]int{"secrets/get": 1})
	thief := b.ask(list("secret", "db"), bound)
	thief.Tokens, thief.Pod.ServiceAccount = b.tokens("shop", "cron"), "cron"
	b.refused(t, thief, provider.ErrDenied, "system:serviceaccount:shop:cron with audience api://AKSIdentityBinding")

	b.provider = b.start(t, nil)
	b.refused(t, b.ask(list("secret", "db"), bound), provider.ErrInvalid, "--azure-token-proxy-sni-name")
	b.provider = b.start(t, &Options{TokenProxy: TokenProxy{Name: name, CAFile: filepath.Join(t.TempDir(), "none")}})
	b.refused(t, b.ask(list("secret", "db"), bound), provider.ErrUnavailable, "read the certificate authority of the token proxy")
}

// Everything is asked of the cloud that the class names, and of no other.
func TestEachCloudHasHostsOfItsOwn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "stack.json")
	if err := os.WriteFile(file, []byte(strings.ReplaceAll(stackFile, "/abc/", "/")), 0o600); err != nil {
		t.Fatal(err)
	}
	stack := azuretest.Cloud{Name: "AzureStackCloud", Authority: "login.stack.example", VaultSuffix: "vault.stack.example"}
	for name, want := range map[string][]string{
		"AzurePublicCloud":       {"kv1.vault.azure.net:443", "login.microsoftonline.com:443"},
		"AzureUSGovernmentCloud": {"kv1.vault.usgovcloudapi.net:443", "login.microsoftonline.us:443"},
		"AzureChinaCloud":        {"kv1.vault.azure.cn:443", "login.chinacloudapi.cn:443"},
		"AzureStackCloud":        {"kv1.vault.stack.example:443", "login.stack.example:443"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackendOf(t, &azuretest.Options{Clouds: []azuretest.Cloud{stack}}, nil)
			b.vault.PutSecret("db", "x")
			var mu sync.Mutex
			var dialled []string
			b.provider = b.start(t, &Options{dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				dialled = append(dialled, address)
				return b.Dial(ctx, network, address)
			}})
			b.fetch(t, b.ask(list("secret", "db"), map[string]string{"cloudName": name, "cloudEnvFileName": file}))
			slices.Sort(dialled)
			expect(t, "addresses", slices.Compact(dialled), want)
		})
	}
}
