package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keymount/keymount/providers/azure/azuretest"
)

const (
	azureClient = "11111111-2222-4333-8444-555555555555"
	// accessToken is the beginning of the tokens of Entra ID in the tests: a
	// JSON Web Token with ES256.
	accessToken = "eyJhbGciOiJFUzI1NiIsI"
)

// An azureWorld is the node with Azure in the test's own process.
type azureWorld struct {
	*suite
	*azuretest.Server
	vault *azuretest.Vault
	ns    string
}

// azurePods runs the steps in their order, up to one that fails.
func azurePods(t *testing.T, s *suite) {
	w := newAzureWorld(t, s)
	defer s.install(t)
	for _, step := range []struct {
		name string
		run  func(*azureWorld, *testing.T)
	}{
		{"pods of one service account get secrets, keys and certificates, with one login", (*azureWorld).gives},
		{"a new version reaches a running pod, and no poll logs in", (*azureWorld).rotates},
		{"what expires is served, and the pod is told", (*azureWorld).warns},
		{"a pod keeps its files while the vault has enough", (*azureWorld).throttles},
		{"who is no application, or may not read, waits, and says why", (*azureWorld).refuses},
		{"neither logs nor the API server have a secret", (*azureWorld).keepsSecrets},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(w, t) }) {
			return
		}
	}
	s.measureMemory(t, "azure")
}

// newAzureWorld starts Azure where pods reach it, lets it trust the cluster, and
// installs the chart with the provider, which knows of nothing but a proxy.
func newAzureWorld(t *testing.T, s *suite) *azureWorld {
	t.Helper()
	node, _ := s.addresses(t)
	w := &azureWorld{suite: s, Server: azuretest.New(t, &azuretest.Options{Listen: net.JoinHostPort(node, "0")}), ns: s.namespace(t)}
	w.vault = w.Vault("shop-e2e")
	w.learnt = append(w.learnt, accessToken)
	s.trustCluster(t, w.Trust)
	w.App(azureClient, azuretest.App{Subjects: []string{"system:serviceaccount:" + w.ns + ":web", "system:serviceaccount:" + w.ns + ":poor"}})
	authority, err := os.ReadFile(w.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	w.apply(t, system, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: azure-ca}\ndata:\n  ca.crt: |\n    "+strings.ReplaceAll(strings.TrimSpace(string(authority)), "\n", "\n    ")+"\n")
	s.install(t, "providers.enabled={file,azure}", "rotation.interval=5s", "csiDriver.tokenRequests[2].audience=api://AzureADTokenExchange",
		"providers.env[0].name=HTTPS_PROXY", "providers.env[0].value="+w.ProxyURL,
		"providers.env[1].name=SSL_CERT_FILE", "providers.env[1].value=/etc/azure/ca.crt",
		"providers.extraVolumes[0].name=azure-ca", "providers.extraVolumes[0].configMap.name=azure-ca",
		"providers.extraVolumeMounts[0].name=azure-ca", "providers.extraVolumeMounts[0].mountPath=/etc/azure", "providers.extraVolumeMounts[0].readOnly=true")
	for _, account := range []string{"web", "poor", "none"} {
		w.apply(t, w.ns, "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: "+account+"}\n")
	}
	w.apply(t, w.ns, fmt.Sprintf(azureClass, w.Tenant, azureClient))
	return w
}

const azureClass = `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: shop}
spec:
  provider: azure
  parameters:
    keyvaultName: shop-e2e
    tenantID: %s
    clientID: %s
    objects: |
      array:
        - |
          objectName: db
          objectType: secret
          objectAlias: password
        - |
          objectName: license
          objectType: secret
          objectVersionHistory: 2
        - |
          objectName: web
          objectType: secret
          objectAlias: tls
          separateFiles: true
        - |
          objectName: web
          objectType: cert
        - |
          objectName: sign
          objectType: key
`

// certificate puts a certificate of a new key, and returns both as PEM. The key
// is a canary.
func (w *azureWorld) certificate(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "shop"}, DNSNames: []string{"shop"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	w.vault.PutCertificate("web", azuretest.Certificate{Chain: [][]byte{der}, Key: private, PFX: true})
	certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	key = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}))
	w.learnt = append(w.learnt, strings.Split(key, "\n")[2]) // most of what is secret in it
	return certificate, key
}

func (w *azureWorld) gives(t *testing.T) {
	password, old, license := w.canary(), w.canary(), w.canary()
	w.vault.PutSecret("db", password)
	w.vault.PutSecret("license", old)
	w.vault.PutSecret("license", license)
	certificate, key := w.certificate(t)
	sign, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(sign.Public())
	if err != nil {
		t.Fatal(err)
	}
	w.vault.PutKey("sign", azuretest.Key{Public: sign.Public()})
	w.Forget()
	for _, pod := range []string{"one", "two", "three"} {
		w.apply(t, w.ns, w.pod(as(pod, "web")))
	}
	for _, pod := range []string{"one", "two", "three"} {
		w.awaitStart(t, w.ns, pod)
		for file, want := range map[string]string{
			"password": password, "license/0": license, "license/1": old, "tls": key + certificate, "tls.crt": certificate, "tls.key": key,
			"web": certificate, "sign": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		} {
			w.sees(t, w.ns, pod, "/secrets/shop/"+file, want)
		}
	}
	for _, call := range w.Calls() {
		if call.Code != "" || strings.Contains(call.Operation, "/get") && call.Client != azureClient {
			t.Errorf("%+v, want a call by %s", call, azureClient)
		}
	}
	if logins, challenges := w.Count("entra/token"), w.Count("challenge"); logins != 1 || challenges != 0 {
		t.Errorf("%d logins and %d challenges of one service account, want 1 and 0", logins, challenges)
	}
}

func (w *azureWorld) rotates(t *testing.T) {
	license := w.canary()
	w.Forget()
	w.vault.PutSecret("license", license)
	w.sees(t, w.ns, "one", "/secrets/shop/license/0", license)
	certificate, key := w.certificate(t)
	w.sees(t, w.ns, "one", "/secrets/shop/tls", key+certificate)
	w.logsInNoMore(t)
}

// logsInNoMore expects that Entra ID was not asked since Forget, and that the
// vault was.
func (w *azureWorld) logsInNoMore(t *testing.T) {
	t.Helper()
	if w.Count("secrets/get") == 0 {
		t.Error("there was no poll")
	}
	for _, call := range w.Calls() {
		if strings.HasPrefix(call.Operation, "entra/") || call.Operation == "challenge" {
			t.Errorf("a poll made the call %+v", call)
		}
	}
}

func (w *azureWorld) warns(t *testing.T) {
	password := w.canary()
	id := w.vault.PutSecretWith("db", azuretest.Secret{Value: password, Expires: time.Now().Add(-time.Minute)})
	w.sees(t, w.ns, "one", "/secrets/shop/password", password)
	w.event(t, w.ns, "one", "SecretExpired", "vault shop-e2e: secret/db version "+id+" has expired at ")
}

func (w *azureWorld) throttles(t *testing.T) {
	before, password := w.canary(), w.canary()
	w.vault.PutSecret("db", before)
	w.sees(t, w.ns, "one", "/secrets/shop/password", before)
	w.Forget()
	w.vault.Fail("secrets/get", azuretest.Fault{Status: http.StatusTooManyRequests, Code: "Throttled", RetryAfter: "2"})
	w.vault.PutSecret("db", password)
	w.event(t, w.ns, "one", "MountRotationFailed", "vault shop-e2e: .* 429 Throttled")
	if got, err := w.read(t.Context(), w.ns, "one", "/secrets/shop/password"); err != nil || got != before {
		t.Errorf("the pod has %d bytes that are not those of before, or %v", len(got), err)
	}
	w.vault.Repair()
	w.sees(t, w.ns, "one", "/secrets/shop/password", password)
	w.logsInNoMore(t)
}

func (w *azureWorld) refuses(t *testing.T) {
	w.apply(t, w.ns, w.pod(as("stranger", "none")))
	w.event(t, w.ns, "stranger", "FailedMount", `\(AADSTS700213\): .*federated credential for system:serviceaccount:`+w.ns+`:none with audience api://AzureADTokenExchange`)
	w.vault.Deny(azureClient, "keys/get", "sign")
	w.event(t, w.ns, "one", "MountRotationFailed", `403 Forbidden \(ForbiddenByRbac\)`) // what pods share is from now on refused
	w.apply(t, w.ns, w.pod(as("denied", "poor")))
	w.event(t, w.ns, "denied", "FailedMount", `vault shop-e2e: get of key/sign as service account .*/poor with client ID .*: 403 Forbidden \(ForbiddenByRbac\)`)
	for _, pod := range []string{"stranger", "denied"} {
		if err := w.ready(t.Context(), w.ns, pod); err == nil {
			t.Errorf("pod %s runs", pod)
		}
	}
	w.vault.Allow(azureClient, "keys/get", "sign")
	w.awaitStart(t, w.ns, "denied")
}

func (w *azureWorld) keepsSecrets(t *testing.T) {
	w.searchPods(t)
	w.searchLogs(t)
}
