package awstest_test

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/keymount/keymount/providers/aws/awstest"
)

func TestEveryAddressOfAWSIsServed(t *testing.T) {
	for _, c := range []struct {
		name, region, partition string
		option                  config.LoadOptionsFunc
	}{
		{"a region", "ap-southeast-2", "aws", nil},
		{"China", "cn-northwest-1", "aws-cn", nil},
		{"GovCloud", "us-gov-west-1", "aws-us-gov", nil},
		{"a secret region", "us-isob-east-1", "aws-iso-b", nil},
		{"the European sovereign cloud", "eusc-de-east-1", "aws-eusc", nil},
		{"FIPS", "us-east-2", "aws", config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled)},
		{"FIPS of GovCloud", "us-gov-east-1", "aws-us-gov", config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled)},
		{"dual stack", "eu-central-1", "aws", config.WithUseDualStackEndpoint(aws.DualStackEndpointStateEnabled)},
		{"dual stack of China", "cn-north-1", "aws-cn", config.WithUseDualStackEndpoint(aws.DualStackEndpointStateEnabled)},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := awstest.New(t, nil)
			base := newClient(t, s)
			option := c.option
			if option == nil {
				option = func(*config.LoadOptions) error { return nil }
			}
			loaded := must[aws.Config](t)(config.LoadDefaultConfig(t.Context(), config.WithRegion(c.region), config.WithHTTPClient(base.HTTPClient),
				config.WithCredentialsProvider(base.Credentials), option))
			loaded.Retryer = base.Retryer
			client, r := newClientOf(loaded), s.Region(c.region)
			r.PutSecret("a", []byte("one"))
			r.PutParameter("a", "two")
			expect(t, "secret", client.value(t, "a"), "one")
			found, _ := client.parametersOf(t, "a")
			expect(t, "parameter", found, []string{"a 1 two"})
			expect(t, "identity", client.identity(t), user)
			prefix := "arn:" + c.partition + ":secretsmanager:" + c.region + ":"
			if arn := r.SecretARN("a"); !strings.HasPrefix(arn, prefix) {
				t.Errorf("ARN %s, want %s...", arn, prefix)
			}
			for _, call := range s.Calls() {
				expect(t, "region of "+call.Operation, call.Region, c.region)
			}
		})
	}
}

func TestAddressesSayTheRegion(t *testing.T) {
	s := awstest.New(t, nil)
	c := newClient(t, s)
	s.Region(here).PutSecret("a", []byte("one"))
	private := c.at("https://vpce-0123456789abcdef0-abcdefgh.secretsmanager.eu-west-1.vpce.amazonaws.com")
	expect(t, "by a VPC endpoint", private.value(t, "a"), "one")
	_, err := private.in("eu-west-2").secrets.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: aws.String("a")})
	refused(t, err, http.StatusBadRequest, "InvalidSignatureException", "Credential should be scoped to a valid region.")

	global := c.at("https://sts.amazonaws.com")
	expect(t, "identity", global.in("us-east-1").identity(t), user)
	_, err = global.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	refused(t, err, http.StatusForbidden, "SignatureDoesNotMatch", "Credential should be scoped to a valid region.")
	calls := s.Calls()
	expect(t, "region", calls[len(calls)-1].Region, "us-east-1")
}

// The SDK finds everything at one address, as AWS_ENDPOINT_URL says, with the
// network that there is.
func TestEverythingIsAtOneURL(t *testing.T) {
	s := awstest.New(t, &awstest.Options{Account: "210987654321", Region: "eu-south-1"})
	r := s.Region(here)
	r.PutSecret("a", []byte("one"))
	const role = "arn:aws:iam::210987654321:role/shop"
	s.Role(role, awstest.Role{Subjects: []string{subject}})
	token := t.TempDir() + "/token"
	if err := os.WriteFile(token, []byte(s.ServiceAccountToken("shop", "web", "sts.amazonaws.com", time.Hour)), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": s.URL, "AWS_ENDPOINT_URL_STS": s.URL, "AWS_REGION": here,
		"AWS_ROLE_ARN": role, "AWS_WEB_IDENTITY_TOKEN_FILE": token, "AWS_ROLE_SESSION_NAME": "web",
	} {
		t.Setenv(name, value)
	}
	c := newClientOf(must[aws.Config](t)(config.LoadDefaultConfig(t.Context())))
	expect(t, "the value", c.value(t, "a"), "one")
	expect(t, "calls", s.Calls(), []awstest.Call{
		{Operation: "sts:AssumeRoleWithWebIdentity", Region: "eu-south-1"}, // which nothing says
		{Operation: "secretsmanager:GetSecretValue", Region: here, Principal: "arn:aws:sts::210987654321:assumed-role/shop/web"},
	})
	if arn := r.SecretARN("a"); !strings.Contains(arn, ":210987654321:") {
		t.Errorf("ARN %s", arn)
	}
}

func TestCertificatesAreOfTheCA(t *testing.T) {
	s := awstest.New(t, nil)
	transport := &http.Transport{DialContext: s.Dial, TLSClientConfig: &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	url := "https://secretsmanager.eu-west-1.amazonaws.com/"
	if resp, err := (&http.Client{Transport: transport}).Get(url); err == nil {
		resp.Body.Close()
		t.Error("a client that trusts nobody is served")
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(must[[]byte](t)(os.ReadFile(s.CAFile)))
	transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	resp := must[*http.Response](t)((&http.Client{Transport: transport}).Get(url))
	resp.Body.Close()
	expect(t, "name", resp.TLS.PeerCertificates[0].DNSNames, []string{"secretsmanager.eu-west-1.amazonaws.com"})

	conn := must[net.Conn](t)(s.Dial(t.Context(), "tcp", "203.0.113.1:443"))
	defer conn.Close()
	if err := tls.Client(conn, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context()); err == nil {
		t.Error("a client that asks for no name has a certificate")
	}
}

func TestAServerEndsWithItsTest(t *testing.T) {
	var s *awstest.Server
	t.Run("it", func(t *testing.T) { s = awstest.New(t, nil) })
	if conn, err := s.Dial(t.Context(), "tcp", "127.0.0.1:80"); err == nil {
		conn.Close()
		t.Error("it is still there")
	}
	if conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://")); err == nil {
		conn.Close()
		t.Error("it still listens")
	}
}

func TestAnHourPassesInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := awstest.New(t, &awstest.Options{Pipe: true})
		s.Region(here).PutSecret("a", []byte("one"))
		c := newClient(t, s)
		for range 60 {
			expect(t, "the value", c.value(t, "a"), "one")
			time.Sleep(time.Minute)
		}
		expect(t, "reads", s.Count("secretsmanager:GetSecretValue"), 60)
		expect(t, "the value at URL", c.at(s.URL).value(t, "a"), "one")
	})
}
