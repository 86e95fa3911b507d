package awstest_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/keymount/keymount/providers/aws/awstest"
)

// calls returns one of each service.
func (c *client) calls(ctx context.Context, t testing.TB, s *awstest.Server) map[string]func() error {
	token := s.ServiceAccountToken("shop", "web", "sts.amazonaws.com", time.Hour)
	return map[string]func() error{
		"secretsmanager": func() error {
			return second(c.secrets.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: aws.String("a")}))
		},
		"ssm": func() error {
			return second(c.parameters.GetParameter(ctx, &ssm.GetParameterInput{Name: aws.String("a")}))
		},
		"sts": func() error { return second(c.exchange(t, token)) },
	}
}

// newOpen returns a server with a secret and a parameter in two regions.
func newOpen(t testing.TB, opts *awstest.Options) (*awstest.Server, *client) {
	t.Helper()
	s := awstest.New(t, opts)
	s.Role(shop, awstest.Role{})
	for _, region := range []string{here, "us-west-2"} {
		s.Region(region).PutSecret("a", []byte("one"))
		s.Region(region).PutParameter("a", "one")
	}
	return s, newClient(t, s)
}

func TestABrokenRegionAnswersNobody(t *testing.T) {
	s, c := newOpen(t, nil)
	s.Region(here).Break()
	codes := map[string]string{"secretsmanager": "InternalServiceError", "ssm": "InternalServerError", "sts": "ServiceUnavailable"}
	for service, call := range c.calls(t.Context(), t, s) {
		refused(t, call(), http.StatusServiceUnavailable, codes[service], "")
	}
	for service, call := range c.in("us-west-2").calls(t.Context(), t, s) {
		if err := call(); err != nil {
			t.Errorf("%s of the other region: %v", service, err)
		}
	}
	s.Region(here).Repair()
	for _, call := range c.calls(t.Context(), t, s) {
		if err := call(); err != nil {
			t.Error(err)
		}
	}
}

func TestFaultsAreCounted(t *testing.T) {
	s, c := newOpen(t, nil)
	r := s.Region(here)
	get := c.calls(t.Context(), t, s)["secretsmanager"]
	r.Fail("secretsmanager:GetSecretValue", awstest.Fault{Code: "ThrottlingException", Message: "Rate exceeded", Times: 2})
	refused(t, get(), http.StatusBadRequest, "ThrottlingException", "Rate exceeded")
	refused(t, get(), http.StatusBadRequest, "ThrottlingException", "Rate exceeded")
	if err := get(); err != nil {
		t.Error(err)
	}
	r.Fail("secretsmanager:GetSecretValue", awstest.Fault{Status: http.StatusInternalServerError, Code: "InternalServiceError"})
	r.Fail("sts:AssumeRoleWithWebIdentity", awstest.Fault{Code: "IDPCommunicationError", Times: 1})
	for range 5 {
		refused(t, get(), http.StatusInternalServerError, "InternalServiceError", "")
	}
	exchange := c.calls(t.Context(), t, s)["sts"]
	refused(t, exchange(), http.StatusBadRequest, "IDPCommunicationError", "")
	if err := exchange(); err != nil {
		t.Error(err)
	}
	refused(t, c.as("AKIAIOSFODNN7EXAMPLE", "x", "").calls(t.Context(), t, s)["secretsmanager"](), http.StatusBadRequest, "UnrecognizedClientException", "")
	r.Fail("secretsmanager:GetSecretValue", awstest.Fault{})
	if err := get(); err != nil {
		t.Error(err)
	}
}

// With retries, the SDK gets through what passes.
func TestTheSDKRetriesThrottling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newOpen(t, &awstest.Options{Pipe: true})
		c.Retryer = nil
		s.Region(here).Fail("ssm:GetParameters", awstest.Fault{Code: "ThrottlingException", Message: "Rate exceeded", Times: 2})
		found, _ := newClientOf(c.Config).parametersOf(t, "a")
		expect(t, "found", found, []string{"a 1 one"})
		expect(t, "calls", s.Count("ssm:GetParameters"), 3)
	})
}

func TestAHangingRegionAnswersAfterItsRepair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, c := newOpen(t, &awstest.Options{Pipe: true})
		r := s.Region(here)
		waiting := r.Hang()
		var calls sync.WaitGroup
		for _, call := range c.calls(t.Context(), t, s) {
			calls.Go(func() {
				if err := call(); err != nil {
					t.Error(err)
				}
			})
		}
		<-waiting
		time.Sleep(time.Minute)
		synctest.Wait()
		expect(t, "calls", len(s.Calls()), 3)
		r.Repair()
		calls.Wait()

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r.Hang()
		if err := c.calls(ctx, t, s)["ssm"](); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v, want that of the caller who gave up", err)
		}
	})
}

func TestAHangingRegionEndsWithItsTest(t *testing.T) {
	var calls sync.WaitGroup
	t.Run("hangs", func(t *testing.T) {
		s, c := newOpen(t, nil)
		waiting := s.Region(here).Hang()
		call := c.calls(context.Background(), t, s)["secretsmanager"]
		calls.Go(func() { _ = call() })
		<-waiting
	})
	calls.Wait()
}

func TestCallsAreTold(t *testing.T) {
	s, c := newOpen(t, nil)
	app := c.assume(t, s, shop)
	app.value(t, "a")
	s.Deny(shop, "ssm:GetParameter", "")
	_ = app.calls(t.Context(), t, s)["ssm"]()
	_ = app.in("us-west-2").as("AKIAIOSFODNN7EXAMPLE", "x", "").calls(t.Context(), t, s)["secretsmanager"]()
	_, _ = c.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	const session = "arn:aws:sts::123456789012:assumed-role/shop/shop-web"
	expect(t, "calls", s.Calls(), []awstest.Call{
		{Operation: "sts:AssumeRoleWithWebIdentity", Region: here},
		{Operation: "secretsmanager:GetSecretValue", Region: here, Principal: session},
		{Operation: "ssm:GetParameter", Region: here, Principal: session, Code: "AccessDeniedException"},
		{Operation: "secretsmanager:GetSecretValue", Region: "us-west-2", Code: "UnrecognizedClientException"},
		{Operation: "sts:GetCallerIdentity", Region: here, Principal: user},
	})
	expect(t, "reads", s.Count("secretsmanager:GetSecretValue"), 2)
	s.Forget()
	expect(t, "calls after that", len(s.Calls()), 0)
}

func TestManyClientsAtOnce(t *testing.T) {
	s, c := newOpen(t, nil)
	var clients sync.WaitGroup
	for i := range 8 {
		clients.Go(func() {
			name := fmt.Sprint("many", i)
			for n := range 5 {
				s.Region(here).PutSecret(name, []byte(fmt.Sprint(n)))
				app := c.assume(t, s, shop)
				expect(t, name, app.value(t, name), fmt.Sprint(n))
			}
		})
	}
	clients.Wait()
	expect(t, "logins", s.Count("sts:AssumeRoleWithWebIdentity"), 40)
}
