package azuretest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/keymount/keymount/providers/azure/azuretest"
)

// read reads the secret db.
func (c *client) read(ctx context.Context) error {
	return second(c.secrets.GetSecret(ctx, "db", "", nil))
}

func TestAnOperationFailsAsOftenAsATestSays(t *testing.T) {
	s := newShop(t, nil)
	v, c := s.Vault("kv1"), newClient(t, s)
	v.PutSecret("db", "x")
	v.Fail("secrets/get", azuretest.Fault{Status: http.StatusTooManyRequests, Code: "Throttled", Message: "Too many.", Inner: "Quota", RetryAfter: "7", Times: 2})
	for range 2 {
		err := c.read(t.Context())
		refused(t, err, "Too Many Requests: Throttled", "Quota")
		var answered *azcore.ResponseError
		if !errors.As(err, &answered) || answered.RawResponse.Header.Get("Retry-After") != "7" {
			t.Errorf("error %v, want Retry-After", err)
		}
	}
	expect(t, "error after that", c.read(t.Context()), nil)
	v.Fail("secrets/get", azuretest.Fault{Code: "BadParameter"})
	for range 3 {
		refused(t, c.read(t.Context()), "Bad Request: BadParameter", "")
	}
	v.Fail("secrets/get", azuretest.Fault{})
	expect(t, "error at the end", c.read(t.Context()), nil)
	s.Vault("kv2").PutSecret("db", "y")
	v.Fail("secrets/get", azuretest.Fault{Code: "BadParameter"})
	other := newClientOf(t, s, strings.Replace(kv1, "kv1", "kv2", 1), federated(t, s, func() string { return s.ServiceAccountToken("shop", "web", exchange, time.Hour) }))
	expect(t, "error of another vault", other.read(t.Context()), nil)
}

func TestAnOutageLastsUntilItIsRepaired(t *testing.T) {
	s := newShop(t, nil)
	v, c := s.Vault("kv1"), newClient(t, s)
	v.PutSecret("db", "x")
	s.Entra().Break()
	if err := c.read(t.Context()); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("error %v, want that of Entra ID", err)
	}
	s.Entra().Repair()
	expect(t, "error", c.read(t.Context()), nil)
	v.Break()
	refused(t, c.read(t.Context()), "Service Unavailable: ServiceUnavailable", "")
	v.Repair()
	expect(t, "error", c.read(t.Context()), nil)
}

func TestACallHangsUntilItsCallerGoesOrItIsRepaired(t *testing.T) {
	s := newShop(t, nil)
	v, c := s.Vault("kv1"), newClient(t, s)
	v.PutSecret("db", "x")
	waiting := v.Hang()
	ctx, leave := context.WithCancel(t.Context())
	gone := make(chan error)
	go func() { gone <- c.read(ctx) }()
	<-waiting
	leave()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v of who has gone", err)
	}
	patient := make(chan error)
	go func() { patient <- c.read(t.Context()) }()
	v.Repair()
	expect(t, "error of who has waited", <-patient, nil)
}

func TestTheMetadataServiceCanBeOff(t *testing.T) {
	s := newShop(t, nil)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://169.254.169.254/metadata/identity/oauth2/token", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.IMDS().Off()
	if resp, err := network(t, s).Do(request); err == nil {
		_ = resp.Body.Close()
		t.Errorf("status %d of what is off", resp.StatusCode)
	}
	s.IMDS().On()
	resp, err := network(t, s).Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	expect(t, "status of a request without the header Metadata", resp.StatusCode, http.StatusBadRequest)
}

func TestCallsAreTold(t *testing.T) {
	s := newShop(t, nil)
	v, c := s.Vault("kv1"), newClient(t, s)
	v.PutSecret("db", "x")
	_, _ = c.read(t.Context()), second(c.secrets.GetSecret(t.Context(), "none", "", nil))
	var told []string
	for _, call := range s.Calls() {
		told = append(told, strings.Join([]string{call.Operation, call.Host, call.Client, http.StatusText(call.Status), call.Code}, " "))
	}
	const vault, login = " kv1.vault.azure.net ", " login.microsoftonline.com "
	expect(t, "calls", told, []string{
		"challenge" + vault + " Unauthorized Unauthorized", "entra/instance" + login + " OK ", "entra/openid" + login + " OK ", "entra/token" + login + shop + " OK ",
		"secrets/get" + vault + shop + " OK ", "secrets/get" + vault + shop + " Not Found SecretNotFound",
	})
	expect(t, "reads", s.Count("secrets/get"), 2)
	s.Forget()
	expect(t, "calls that are left", len(s.Calls()), 0)
}

// With its retries, the SDK gets through what passes, when the vault says.
func TestTheSDKWaitsAsLongAsAVaultSays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, &azuretest.Options{Pipe: true})
		s.Vault("kv1").PutSecret("db", "one")
		options := sdk(t, s)
		options.Retry = policy.RetryOptions{}
		cred := federated(t, s, func() string { return s.ServiceAccountToken("shop", "web", exchange, time.Hour) })
		c := must[*azsecrets.Client](t)(azsecrets.NewClient(kv1, cred, &azsecrets.ClientOptions{ClientOptions: options}))
		s.Vault("kv1").Fail("secrets/get", azuretest.Fault{Status: http.StatusTooManyRequests, Code: "Throttled", RetryAfter: "17", Times: 2})
		began := time.Now()
		got := must[azsecrets.GetSecretResponse](t)(c.GetSecret(t.Context(), "db", "", nil))
		expect(t, "value", *got.Value, "one")
		expect(t, "time", time.Since(began), 34*time.Second)
		expect(t, "calls", s.Count("secrets/get"), 3)
	})
}

func TestEveryServiceFailsAsATestSays(t *testing.T) {
	s := newShop(t, nil)
	s.Vault("kv1").PutSecret("db", "x")
	s.Vault("kv1").Fail("challenge", azuretest.Fault{Status: http.StatusBadGateway, Code: "Gateway", Times: 1})
	refused(t, newClient(t, s).read(t.Context()), "Bad Gateway: Gateway", "")
	s.Entra().Fail("entra/token", azuretest.Fault{Status: http.StatusBadRequest, Code: "temporarily_unavailable", Message: "AADSTS90033: A transient error has occurred.", Times: 1})
	refused(t, newClient(t, s).read(t.Context()), "AADSTS90033", "transient")
	s.Entra().Fail("entra/openid", azuretest.Fault{Status: http.StatusInternalServerError, Code: "server_error", Times: 1})
	if err := newClient(t, s).read(t.Context()); err == nil || !strings.Contains(err.Error(), "server_error") {
		t.Errorf("error %v, want that of the metadata", err)
	}
	expect(t, "error at the end", newClient(t, s).read(t.Context()), nil)
}

func TestAHangingServerEndsWithItsTest(t *testing.T) {
	var calls sync.WaitGroup
	t.Run("hangs", func(t *testing.T) {
		s := newShop(t, nil)
		waiting := s.Entra().Hang()
		c := newClient(t, s)
		calls.Go(func() { _ = c.read(context.Background()) })
		<-waiting
	})
	calls.Wait()
}

func TestManyClientsAtOnce(t *testing.T) {
	s := newShop(t, nil)
	v := s.Vault("kv1")
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			name, c := fmt.Sprint("many", i), newClient(t, s)
			for n := range 5 {
				v.PutSecret(name, fmt.Sprint(n))
				expect(t, name, *must[azsecrets.GetSecretResponse](t)(c.secrets.GetSecret(t.Context(), name, "", nil)).Value, fmt.Sprint(n))
			}
			all, _ := c.versions(t, name)
			expect(t, "versions of "+name, len(all), 5)
		})
	}
	clients.Wait()
	expect(t, "reads", s.Count("secrets/get"), 40)
	expect(t, "logins", s.Count("entra/token"), 8)
}
