package azuretest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"math/big"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/golang-jwt/jwt/v5"

	"github.com/keymount/keymount/providers/azure/azuretest"
)

const vaults = "vault.azure.net"

func TestAnAppLogsInInFourWays(t *testing.T) {
	s := azuretest.New(t, nil)
	s.Vault("kv1").PutSecret("db", "one")
	key := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	cert := issue(t, "app", key, nil)
	s.App(shop, azuretest.App{Secret: "canary-s", Certificate: cert.Certificate, Subjects: []string{subject}})
	machine := newID()
	s.Machine(shop, machine)
	for name, cred := range map[string]azcore.TokenCredential{
		"secret": must[*azidentity.ClientSecretCredential](t)(azidentity.NewClientSecretCredential(s.Tenant, shop, "canary-s",
			&azidentity.ClientSecretCredentialOptions{ClientOptions: sdk(t, s)})),
		"certificate": must[*azidentity.ClientCertificateCredential](t)(azidentity.NewClientCertificateCredential(s.Tenant, strings.ToUpper(shop),
			[]*x509.Certificate{cert.Certificate}, key, &azidentity.ClientCertificateCredentialOptions{ClientOptions: sdk(t, s)})),
		"assertion": federated(t, s, func() string { return s.ServiceAccountToken("shop", "web", exchange, time.Hour) }),
		"machine": must[*azidentity.ManagedIdentityCredential](t)(azidentity.NewManagedIdentityCredential(
			&azidentity.ManagedIdentityCredentialOptions{ClientOptions: sdk(t, s), ID: azidentity.ClientID(machine)})),
	} {
		t.Run(name, func(t *testing.T) {
			s.Forget()
			who := shop
			if name == "machine" {
				who = machine
			}
			expect(t, "value", newClientOf(t, s, kv1, cred).secret(t, "db"), "one")
			calls := s.Calls()
			expect(t, "the first call", calls[0], azuretest.Call{Operation: "challenge", Host: "kv1.vault.azure.net", Path: "/secrets/db/", Status: 401, Code: "Unauthorized"})
			expect(t, "the last call", calls[len(calls)-1],
				azuretest.Call{Operation: "secrets/get", Host: "kv1.vault.azure.net", Path: "/secrets/db/", Client: who, Status: 200})
			expect(t, "tokens", s.Count("entra/token")+s.Count("imds/token"), 1)
		})
	}
}

func TestEntraRefusesFederatedTokens(t *testing.T) {
	s := newShop(t, nil)
	other := azuretest.New(t, nil)
	s.App(shop, azuretest.App{Subjects: []string{subject}})
	valid := func() string { return s.ServiceAccountToken("shop", "web", exchange, time.Hour) }
	for _, c := range []struct{ name, token, code, part string }{
		{"of another account", s.ServiceAccountToken("shop", "other", exchange, time.Hour), "AADSTS700213", "'system:serviceaccount:shop:other'"},
		{"for another audience", s.ServiceAccountToken("shop", "web", "vault", time.Hour), "AADSTS700212", "audience 'vault'"},
		{"of another issuer", other.ServiceAccountToken("shop", "web", exchange, time.Hour), "AADSTS700211", other.Issuer()},
		{"expired", s.ServiceAccountToken("shop", "web", exchange, -time.Second), "AADSTS700024", "not within its valid time range"},
		{"signed by nobody", valid()[:len(valid())-9] + "AAAAAAAAA", "AADSTS50013", "signature"},
		{"no token", "x", "AADSTS50027", "malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, token(t, federated(t, s, func() string { return c.token }), vaults), c.code, c.part)
			calls := s.Calls()
			last := calls[len(calls)-1]
			expect(t, "the last call", []string{last.Operation, last.Client, last.Code}, []string{"entra/token", "", c.code})
		})
	}
	s.App(shop, azuretest.App{Subjects: []string{subject}, Audience: "vault"})
	if err := token(t, federated(t, s, func() string { return s.ServiceAccountToken("shop", "web", "vault", time.Hour) }), vaults); err != nil {
		t.Errorf("a token for the audience of the app: %v", err)
	}
	s.App(shop, azuretest.App{Secret: "x"})
	refused(t, token(t, federated(t, s, valid), vaults), "AADSTS700211", "")
}

// assertion returns one that the app signs.
func assertion(t testing.TB, key crypto.Signer, method jwt.SigningMethod, thumbprint, audience, sub string, life time.Duration) string {
	j := jwt.NewWithClaims(method, jwt.RegisteredClaims{
		Issuer: shop, Subject: sub, Audience: jwt.ClaimStrings{audience}, ExpiresAt: jwt.NewNumericDate(time.Now().Add(life)),
	})
	j.Header["x5t"] = thumbprint
	return must[string](t)(j.SignedString(key))
}

func TestEntraRefusesSignedAssertions(t *testing.T) {
	s := newShop(t, nil)
	key, strange := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048)), must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	cert := issue(t, "app", key, nil)
	s.App(shop, azuretest.App{Certificate: cert.Certificate})
	endpoint := "https://login.microsoftonline.com/" + s.Tenant + "/oauth2/v2.0/token"
	x5t := sha1Of(cert.Raw)
	for _, c := range []struct{ name, assertion, code string }{
		{"of the app", assertion(t, key, jwt.SigningMethodRS256, x5t, endpoint, shop, time.Hour), ""},
		{"of the app with RSA-PSS", assertion(t, key, jwt.SigningMethodPS256, x5t, endpoint, shop, time.Hour), ""},
		{"of another key", assertion(t, strange, jwt.SigningMethodRS256, x5t, endpoint, shop, time.Hour), "AADSTS700027"},
		{"of another certificate", assertion(t, key, jwt.SigningMethodRS256, "x", endpoint, shop, time.Hour), "AADSTS700027"},
		{"in another way", assertion(t, key, jwt.SigningMethodRS512, x5t, endpoint, shop, time.Hour), "AADSTS700027"},
		{"for another place", assertion(t, key, jwt.SigningMethodRS256, x5t, "https://login.microsoftonline.com/", shop, time.Hour), "AADSTS700023"},
		{"about another app", assertion(t, key, jwt.SigningMethodRS256, x5t, endpoint, "other", time.Hour), "AADSTS700021"},
		{"expired", assertion(t, key, jwt.SigningMethodRS256, x5t, endpoint, shop, -time.Hour), "AADSTS700024"},
	} {
		t.Run(c.name, func(t *testing.T) {
			expect(t, "code", code(token(t, federated(t, s, func() string { return c.assertion }), vaults)), c.code)
		})
	}
}

// post returns the status, error and AADSTS number that a login gets.
func post(t testing.TB, s *azuretest.Server, tenant string, change func(url.Values)) (status int, kind string, numbers []int) {
	t.Helper()
	form := url.Values{"client_id": {shop}, "client_secret": {"canary"}, "grant_type": {"client_credentials"}, "scope": {"https://vault.azure.net/.default"}}
	change(form)
	resp := must[*http.Response](t)(network(t, s).PostForm("https://login.microsoftonline.com/"+tenant+"/oauth2/v2.0/token", form))
	defer resp.Body.Close()
	var answer struct {
		Error   string `json:"error"`
		Numbers []int  `json:"error_codes"`
		Text    string `json:"error_description"`
	}
	body := must[[]byte](t)(io.ReadAll(resp.Body))
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	if strings.Contains(string(body), "canary") {
		t.Errorf("the answer has the secret: %s", body)
	}
	return resp.StatusCode, answer.Error, answer.Numbers
}

func TestEntraRefusesLogins(t *testing.T) {
	s := azuretest.New(t, nil)
	s.App(shop, azuretest.App{Secret: "canary"})
	for _, c := range []struct {
		name   string
		tenant string
		change func(url.Values)
		status int
		kind   string
		number int
	}{
		{"another tenant", "other", func(url.Values) {}, 400, "invalid_request", 90002},
		{"an unknown app", s.Tenant, func(f url.Values) { f.Set("client_id", "other") }, 400, "unauthorized_client", 700016},
		{"no app", s.Tenant, func(f url.Values) { f.Del("client_id") }, 400, "invalid_request", 900144},
		{"another secret", s.Tenant, func(f url.Values) { f.Set("client_secret", "canaryx") }, 401, "invalid_client", 7000215},
		{"no secret", s.Tenant, func(f url.Values) { f.Del("client_secret") }, 401, "invalid_client", 7000218},
		{"an assertion without a type", s.Tenant, func(f url.Values) { f.Set("client_assertion", "x") }, 400, "invalid_request", 900144},
		{"another grant", s.Tenant, func(f url.Values) { f.Set("grant_type", "password") }, 400, "unsupported_grant_type", 70003},
		{"a scope that is no default", s.Tenant, func(f url.Values) { f.Set("scope", "https://vault.azure.net/read") }, 400, "invalid_scope", 1002012},
		{"two scopes", s.Tenant, func(f url.Values) { f.Set("scope", "https://vault.azure.net/.default https://a.example/.default") }, 400, "invalid_scope", 1002012},
		{"a resource that is not there", s.Tenant, func(f url.Values) { f.Set("scope", "https://a.example/.default") }, 400, "invalid_resource", 500011},
		{"the vaults of another cloud", s.Tenant, func(f url.Values) { f.Set("scope", "https://vault.azure.cn/.default") }, 400, "invalid_resource", 500011},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, kind, numbers := post(t, s, c.tenant, c.change)
			expect(t, "status", status, c.status)
			expect(t, "error", kind, c.kind)
			expect(t, "codes", numbers, []int{c.number})
		})
	}
	status, kind, _ := post(t, s, strings.ToUpper(s.Tenant), func(url.Values) {})
	expect(t, "status of a login that is good", status, 200)
	expect(t, "error of a login that is good", kind, "")
}

func TestTheSDKKnowsTheErrorsOfATenant(t *testing.T) {
	s := newShop(t, nil)
	cred := must[*azidentity.ClientSecretCredential](t)(azidentity.NewClientSecretCredential("other", shop, "x",
		&azidentity.ClientSecretCredentialOptions{ClientOptions: sdk(t, s)}))
	if err := token(t, cred, vaults); err == nil || !strings.Contains(err.Error(), "Tenant 'other' not found") {
		t.Errorf("error %v", err)
	}
	options := sdk(t, s)
	options.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: "https://login.example/"}
	cred = must[*azidentity.ClientSecretCredential](t)(azidentity.NewClientSecretCredential(s.Tenant, shop, "x", &azidentity.ClientSecretCredentialOptions{ClientOptions: options}))
	if err := token(t, cred, vaults); err == nil || !strings.Contains(err.Error(), "invalid_instance") {
		t.Errorf("error %v", err)
	}
}

func TestEveryCloudHasItsAuthorityAndVaults(t *testing.T) {
	own := azuretest.Cloud{Name: "AzureStackCloud", Authority: "login.stack.example", VaultSuffix: "vault.stack.example"}
	s := azuretest.New(t, &azuretest.Options{Clouds: []azuretest.Cloud{own}})
	s.App(shop, azuretest.App{Secret: "canary"})
	s.Vault("kv1").PutSecret("db", "one")
	for authority, suffix := range map[string]string{
		cloud.AzurePublic.ActiveDirectoryAuthorityHost: "vault.azure.net", cloud.AzureGovernment.ActiveDirectoryAuthorityHost: "vault.usgovcloudapi.net",
		cloud.AzureChina.ActiveDirectoryAuthorityHost: "vault.azure.cn", "https://login.partner.microsoftonline.cn": "vault.azure.cn",
		"https://login.stack.example": own.VaultSuffix,
	} {
		options := sdk(t, s)
		options.Cloud = cloud.Configuration{ActiveDirectoryAuthorityHost: authority}
		cred := must[*azidentity.ClientSecretCredential](t)(azidentity.NewClientSecretCredential(s.Tenant, shop, "canary",
			&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: suffix == own.VaultSuffix}))
		expect(t, "value in "+suffix, newClientOf(t, s, "https://kv1."+suffix, cred).secret(t, "db"), "one")
		elsewhere := "https://kv1.vault.azure.net"
		if suffix == "vault.azure.net" {
			elsewhere = "https://kv1.vault.azure.cn"
		}
		refused(t, second(newClientOf(t, s, elsewhere, cred).secrets.GetSecret(t.Context(), "db", "", nil)), "AADSTS500011", "")
	}
}

func TestAMachineHasIdentities(t *testing.T) {
	s := azuretest.New(t, nil)
	other := newID()
	managed := func(id string) azcore.TokenCredential {
		options := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: sdk(t, s)}
		if id != "" {
			options.ID = azidentity.ClientID(id)
		}
		return must[*azidentity.ManagedIdentityCredential](t)(azidentity.NewManagedIdentityCredential(options))
	}
	refused(t, token(t, managed(newID()), vaults), "invalid_request", "Identity not found")
	s.Machine(shop, other)
	s.Forget()
	if err := token(t, managed(other), vaults); err != nil {
		t.Error(err)
	}
	expect(t, "calls", s.Calls(), []azuretest.Call{{Operation: "imds/token", Host: "169.254.169.254", Path: "/metadata/identity/oauth2/token", Client: other, Status: 200}})
	s.IMDS().Off()
	if err := token(t, managed(newID()), vaults); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error %v of a machine that is off", err)
	}
	s.IMDS().On()
	s.IMDS().Fail("imds/token", azuretest.Fault{Status: http.StatusForbidden, Code: "busy", Message: "Later.", Times: 1})
	refused(t, token(t, managed(other+"x"), vaults), "busy", "Later.")
	const good = "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https%3A%2F%2Fvault.azure.net"
	for path, want := range map[string]int{
		good: 200, good + "%2F": 200, strings.Replace(good, "2018", "2017", 1): 400, good + "%2Fx": 400, good + "&msi_res_id=x": 400,
		"/metadata/identity/oauth2/token?api-version=2018-02-01": 400, "/metadata/instance": 404,
	} {
		r := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, "http://169.254.169.254"+path, nil))
		r.Header.Set("Metadata", "true")
		resp := must[*http.Response](t)(network(t, s).Do(r))
		resp.Body.Close()
		expect(t, "status of "+path, resp.StatusCode, want)
		if want == 200 {
			r.Header.Del("Metadata")
			resp := must[*http.Response](t)(network(t, s).Do(r))
			resp.Body.Close()
			expect(t, "status without the header", resp.StatusCode, 400)
		}
	}
}

func TestTheTokenProxyOfACluster(t *testing.T) {
	s := newShop(t, nil)
	s.Vault("kv1").PutSecret("db", "one")
	options := sdk(t, s)
	const name = "a0123456789.ests.aks"
	options.Transport = proxied{&http.Transport{DialContext: s.Dial, TLSClientConfig: &tls.Config{RootCAs: s.CAs(), ServerName: name, MinVersion: tls.VersionTLS12}}}
	login := func(audience string) azcore.TokenCredential {
		return must[*azidentity.ClientAssertionCredential](t)(azidentity.NewClientAssertionCredential(s.Tenant, shop, assert(s, audience),
			&azidentity.ClientAssertionCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true}))
	}
	refused(t, token(t, login(exchange), vaults), "AADSTS700212", "")
	s.Forget()
	expect(t, "value", newClientOf(t, s, kv1, login("api://AKSIdentityBinding")).secret(t, "db"), "one")
	expect(t, "calls to the proxy", s.Calls()[1:3], []azuretest.Call{
		{Operation: "entra/openid", Host: name, Path: "/" + s.Tenant + "/v2.0/.well-known/openid-configuration", Status: 200},
		{Operation: "proxy/token", Host: name, Path: "/" + s.Tenant + "/oauth2/v2.0/token", Client: shop, Status: 200},
	})
	s.App(shop, azuretest.App{Secret: "canary"})
	cred := must[*azidentity.ClientSecretCredential](t)(azidentity.NewClientSecretCredential(s.Tenant, shop, "canary",
		&azidentity.ClientSecretCredentialOptions{ClientOptions: options, DisableInstanceDiscovery: true}))
	refused(t, token(t, cred, vaults), "AADSTS7000218", "")
}

func TestAnotherClusterIsTrusted(t *testing.T) {
	s := newShop(t, nil)
	ofRSA := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	ofEC := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	text := base64.RawURLEncoding.EncodeToString
	point := must[[]byte](t)(ofEC.PublicKey.Bytes())
	jwks := must[[]byte](t)(json.Marshal(map[string]any{"keys": []map[string]string{
		{"kty": "RSA", "kid": "r", "n": text(ofRSA.N.Bytes()), "e": text(big.NewInt(int64(ofRSA.E)).Bytes())},
		{"kty": "EC", "kid": "e", "crv": "P-256", "x": text(point[1:33]), "y": text(point[33:])},
	}}))
	const issuer = "https://kubernetes.default.svc"
	sign := func(method jwt.SigningMethod, id string, key crypto.Signer) string {
		j := jwt.NewWithClaims(method, jwt.RegisteredClaims{
			Issuer: issuer, Subject: subject, Audience: jwt.ClaimStrings{exchange}, ExpiresAt: jwt.NewNumericDate(time.Now().Add(time.Hour)),
		})
		j.Header["kid"] = id
		return must[string](t)(j.SignedString(key))
	}
	refused(t, token(t, federated(t, s, func() string { return sign(jwt.SigningMethodRS256, "r", ofRSA) }), vaults), "AADSTS700211", issuer)
	s.Trust(issuer, jwks)
	for text, want := range map[string]string{
		sign(jwt.SigningMethodRS256, "r", ofRSA): "", sign(jwt.SigningMethodES256, "e", ofEC): "",
		sign(jwt.SigningMethodRS512, "r", ofRSA): "AADSTS50013", sign(jwt.SigningMethodRS256, "x", ofRSA): "AADSTS50013",
	} {
		expect(t, "code", code(token(t, federated(t, s, func() string { return text }), vaults)), want)
	}
}

// Tokens end, and the SDK gets others in time.
func TestHoursPassInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, &azuretest.Options{Pipe: true})
		s.Vault("kv1").PutSecret("db", "one")
		c := newClient(t, s)
		for range 180 {
			expect(t, "value", c.secret(t, "db"), "one")
			time.Sleep(time.Minute)
		}
		expect(t, "reads", s.Count("secrets/get"), 180)
		expect(t, "challenges", s.Count("challenge"), 1)
		if n := s.Count("entra/token"); n < 3 || n > 7 {
			t.Errorf("%d logins in three hours", n)
		}
		expect(t, "proxy", s.ProxyURL, "")
	})
}

func TestEntraTellsWhereThingsAre(t *testing.T) {
	own := azuretest.Cloud{Name: "AzureStackCloud", Authority: "login.stack.example", VaultSuffix: "vault.stack.example"}
	s := azuretest.New(t, &azuretest.Options{Clouds: []azuretest.Cloud{own}})
	c := network(t, s)
	const discovery = "/common/discovery/instance?api-version=1.1&authorization_endpoint="
	for address, want := range map[string]string{
		"login.microsoftonline.com" + discovery + "https://login.microsoftonline.us/x/oauth2/v2.0/authorize": `"tenant_discovery_endpoint":"https://login.microsoftonline.us/x/v2.0/`,
		"login.stack.example" + discovery + "https://login.stack.example/x/oauth2/v2.0/authorize":            `"tenant_discovery_endpoint":"https://login.stack.example/x/v2.0/`,
		"login.microsoftonline.com" + discovery + "https://login.stack.example/x/oauth2/v2.0/authorize":      "AADSTS50049",
		"login.microsoftonline.com" + discovery + "http://login.microsoftonline.com/x":                       "AADSTS90013",
		"login.windows.net/" + s.Tenant + "/v2.0/.well-known/openid-configuration":                           `"issuer":"https://login.windows.net/` + s.Tenant + `/v2.0"`,
		"login.windows.net/other/v2.0/.well-known/openid-configuration":                                      "AADSTS90002",
	} {
		if _, _, body := get(t, c, "https://"+address, ""); !strings.Contains(body, want) {
			t.Errorf("%s: %s\nwant ...%s...", address, body, want)
		}
	}
}
