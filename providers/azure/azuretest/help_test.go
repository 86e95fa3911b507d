package azuretest_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/http"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azcertificates"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/providers/azure/azuretest"
)

// What the machine has in its environment is nothing to these tests.
func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		for _, prefix := range []string{"AZURE_", "IDENTITY_", "MSI_", "IMDS_"} {
			if strings.HasPrefix(name, prefix) {
				_ = os.Unsetenv(name)
			}
		}
	}
	os.Exit(m.Run())
}

const (
	shop     = "cccccccc-0000-0000-0000-000000000001"
	subject  = "system:serviceaccount:shop:web"
	exchange = "api://AzureADTokenExchange"
	kv1      = "https://kv1.vault.azure.net"
)

// A client is the SDK without retries, of one vault and one credential.
type client struct {
	secrets      *azsecrets.Client
	keys         *azkeys.Client
	certificates *azcertificates.Client
}

// newClient returns a client of the app shop, by the token of shop/web.
func newClient(t testing.TB, s *azuretest.Server) *client {
	t.Helper()
	return newClientOf(t, s, kv1, federated(t, s, func() string { return s.ServiceAccountToken("shop", "web", exchange, time.Hour) }))
}

// newShop returns a server with the app shop, of shop/web.
func newShop(t testing.TB, opts *azuretest.Options) *azuretest.Server {
	t.Helper()
	s := azuretest.New(t, opts)
	s.App(shop, azuretest.App{Subjects: []string{subject}})
	s.Vault("kv1")
	return s
}

func newClientOf(t testing.TB, s *azuretest.Server, vault string, cred azcore.TokenCredential) *client {
	t.Helper()
	options := sdk(t, s)
	return &client{
		must[*azsecrets.Client](t)(azsecrets.NewClient(vault, cred, &azsecrets.ClientOptions{ClientOptions: options})),
		must[*azkeys.Client](t)(azkeys.NewClient(vault, cred, &azkeys.ClientOptions{ClientOptions: options})),
		must[*azcertificates.Client](t)(azcertificates.NewClient(vault, cred, &azcertificates.ClientOptions{ClientOptions: options})),
	}
}

// federated returns a credential of the app shop.
func federated(t testing.TB, s *azuretest.Server, token func() string) azcore.TokenCredential {
	t.Helper()
	return must[*azidentity.ClientAssertionCredential](t)(azidentity.NewClientAssertionCredential(s.Tenant, shop,
		func(context.Context) (string, error) { return token(), nil }, &azidentity.ClientAssertionCredentialOptions{ClientOptions: sdk(t, s)}))
}

// sdk returns the options of every client of the SDK.
func sdk(t testing.TB, s *azuretest.Server) policy.ClientOptions {
	return policy.ClientOptions{Transport: network(t, s), Retry: policy.RetryOptions{MaxRetries: -1}}
}

// network returns an HTTP client whose network is the server.
func network(t testing.TB, s *azuretest.Server) *http.Client {
	transport := &http.Transport{DialContext: s.Dial, TLSClientConfig: &tls.Config{RootCAs: s.CAs(), MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// secret returns the newest value.
func (c *client) secret(t testing.TB, name string) string {
	t.Helper()
	return *must[azsecrets.GetSecretResponse](t)(c.secrets.GetSecret(t.Context(), name, "", nil)).Value
}

// token returns the error of getting a token for vaults of a cloud's suffix.
func token(t testing.TB, cred azcore.TokenCredential, suffix string) error {
	t.Helper()
	return second(cred.GetToken(t.Context(), policy.TokenRequestOptions{Scopes: []string{"https://" + suffix + "/.default"}}))
}

// Codes of Entra ID, and those that IMDS has instead.
var (
	entraCode = regexp.MustCompile(`AADSTS\d+`)
	imdsCode  = regexp.MustCompile(`"error": ?"([^"]+)"`)
)

// code returns the status and code of an error of the SDK, or what it says.
func code(err error) string {
	var failed *azidentity.AuthenticationFailedError
	var answered *azcore.ResponseError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &failed) && entraCode.MatchString(err.Error()):
		return entraCode.FindString(err.Error())
	case errors.As(err, &failed) && imdsCode.MatchString(err.Error()):
		return imdsCode.FindStringSubmatch(err.Error())[1]
	case errors.As(err, &answered):
		return http.StatusText(answered.StatusCode) + ": " + answered.ErrorCode
	default:
		return err.Error()
	}
}

// refused expects an error of a code, that says a part.
func refused(t testing.TB, err error, want, part string) {
	t.Helper()
	if got := code(err); got != want || !strings.Contains(err.Error(), part) {
		t.Errorf("error %q, want %s: ...%s...\n%v", got, want, part, err)
	}
}

func expect[T any](t testing.TB, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// second returns the error of a call whose answer is of no interest.
func second[T any](_ T, err error) error { return err }

// must returns the answer of a call that must succeed.
func must[T any](t testing.TB) func(answer T, err error) T {
	t.Helper()
	return func(answer T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
}

// An issued is a certificate with its key.
type issued struct {
	*x509.Certificate
	key crypto.Signer
}

// issue returns a certificate of the name, valid for a year, of a key; signed
// by the issuer, or itself.
func issue(t testing.TB, name string, key crypto.Signer, by *issued) *issued {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: by == nil, BasicConstraintsValid: true,
	}
	if by == nil {
		by = &issued{template, key}
	}
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, by.Certificate, key.Public(), by.key))
	return &issued{must[*x509.Certificate](t)(x509.ParseCertificate(der)), key}
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	return must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
}

// newID returns a client ID that is new: MSAL keeps the tokens of a machine's
// identities for the whole process.
func newID() string { return strings.ToLower(rand.Text()) }
