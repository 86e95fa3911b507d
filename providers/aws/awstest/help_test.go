package awstest_test

import (
	"crypto/tls"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/providers/aws/awstest"
)

// What the machine has in its environment is nothing to these tests.
func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "AWS_") {
			_ = os.Unsetenv(name)
		}
	}
	_ = os.Setenv("AWS_CONFIG_FILE", os.DevNull)
	_ = os.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	_ = os.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	os.Exit(m.Run())
}

const (
	here    = "eu-west-1"
	user    = "arn:aws:iam::123456789012:user/admin"
	shop    = "arn:aws:iam::123456789012:role/shop"
	subject = "system:serviceaccount:shop:web"
)

// A client is the SDK without retries, in a region.
type client struct {
	aws.Config
	secrets    *secretsmanager.Client
	parameters *ssm.Client
	sts        *sts.Client
}

// newClient returns a client that signs as a user who may do everything.
func newClient(t testing.TB, s *awstest.Server) *client {
	t.Helper()
	id, secret := s.AccessKey(user)
	return newClientOf(aws.Config{
		Region: here, HTTPClient: network(t, s), Credentials: credentials.NewStaticCredentialsProvider(id, secret, ""),
		Retryer: func() aws.Retryer { return aws.NopRetryer{} },
	})
}

func newClientOf(config aws.Config) *client {
	return &client{config, secretsmanager.NewFromConfig(config), ssm.NewFromConfig(config), sts.NewFromConfig(config)}
}

// in, as and at return the client changed.
func (c *client) in(region string) *client {
	config := c.Copy()
	config.Region = region
	return newClientOf(config)
}

func (c *client) as(id, secret, token string) *client {
	config := c.Copy()
	config.Credentials = credentials.NewStaticCredentialsProvider(id, secret, token)
	return newClientOf(config)
}

func (c *client) at(url string) *client {
	config := c.Copy()
	config.BaseEndpoint = &url
	return newClientOf(config)
}

// network returns an HTTP client whose network is the server.
func network(t testing.TB, s *awstest.Server) *http.Client {
	transport := &http.Transport{DialContext: s.Dial, TLSClientConfig: &tls.Config{RootCAs: s.CAs(), MinVersion: tls.VersionTLS12}}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// assume returns the client with the credentials of the role, which service
// account shop/web has.
func (c *client) assume(t testing.TB, s *awstest.Server, role string) *client {
	t.Helper()
	out, err := c.sts.AssumeRoleWithWebIdentity(t.Context(), &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: &role, RoleSessionName: aws.String("shop-web"), WebIdentityToken: aws.String(s.ServiceAccountToken("shop", "web", "sts.amazonaws.com", time.Hour)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return c.as(*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
}

// refused expects an error of a status and code, whose message has a part.
func refused(t testing.TB, err error, status int, code, part string) {
	t.Helper()
	var answered smithy.APIError
	var response *awshttp.ResponseError
	if !errors.As(err, &answered) || !errors.As(err, &response) {
		t.Errorf("error %v, want %s", err, code)
		return
	}
	if response.HTTPStatusCode() != status || answered.ErrorCode() != code || !strings.Contains(answered.ErrorMessage(), part) {
		t.Errorf("status %d and %s: %s\nwant %d and %s: ...%s", response.HTTPStatusCode(), answered.ErrorCode(), answered.ErrorMessage(), status, code, part)
	}
	if response.RequestID == "" {
		t.Errorf("%v has no request ID", err)
	}
}

// A refusal is a call that gets one, and which.
type refusal struct {
	name string
	err  func() error
	code string
	part string
}

func expectRefusals(t *testing.T, status int, cases []refusal) {
	t.Helper()
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) { refused(t, c.err(), status, c.code, c.part) })
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
