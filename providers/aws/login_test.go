package aws

import (
	"context"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/aws/awstest"
)

// refused expects a fetch to fail for a reason, with all parts in its text and
// no token of the request.
func (b *backend) refused(t *testing.T, req *provider.Request, reason error, parts ...string) {
	t.Helper()
	_, err := b.provider.Fetch(t.Context(), req)
	if !errors.Is(err, reason) {
		t.Fatalf("Fetch = %v, want %v", err, reason)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v\ndoes not say %q", err, part)
		}
	}
	for _, token := range req.Tokens {
		if strings.Contains(err.Error(), string(token.Value.Reveal())) {
			t.Errorf("the error has a token: %v", err)
		}
	}
}

// A class need not name what the cluster knows.
func TestRoleAudienceAndRegionComeFromTheCluster(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("db", []byte("x"))
	open := map[string]string{"roleArn": "", "region": ""}
	req := b.ask(list(secretsManager, "db"), open)
	b.Forget()
	_, err := b.provider.Fetch(t.Context(), req)
	var missing *provider.MissingFactsError
	if !errors.As(err, &missing) {
		t.Fatalf("Fetch = %v, want *MissingFactsError", err)
	}
	label := provider.NodeLabel(regionLabel)
	expect(t, "missing facts", missing.Facts, []provider.Fact{roleAnnotation, audienceAnnotation, label})
	req.Facts = provider.Facts{roleAnnotation: testRole, audienceAnnotation: "", label: testRegion}
	expect(t, "files", contents(b.fetch(t, req)), map[string]string{"db": "x"})

	req.Facts[audienceAnnotation] = "own.audience"
	_, err = b.provider.Fetch(t.Context(), req)
	var token *provider.MissingTokenError
	if !errors.As(err, &token) || token.Audience != "own.audience" {
		t.Errorf("Fetch = %v, want *MissingTokenError of own.audience", err)
	}
	req.Facts = provider.Facts{roleAnnotation: "", audienceAnnotation: "", label: testRegion}
	b.refused(t, req, provider.ErrInvalid, "An IAM role must be associated with service account web (namespace: shop)", "eks.amazonaws.com/role-arn", "roleArn")
	req.Facts[roleAnnotation] = "shop"
	b.refused(t, req, provider.ErrInvalid, "annotation eks.amazonaws.com/role-arn of service account shop/web is no ARN of an IAM role: shop")
	req.Facts = provider.Facts{roleAnnotation: testRole, audienceAnnotation: "", label: ""}
	b.refused(t, req, provider.ErrInvalid, "failed to retrieve region from node", regionLabel, "AWS_REGION")
}

// The annotation eks.amazonaws.com/audience used to be ignored.
func TestAnotherAudienceIsHonoured(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("db", []byte("x"))
	b.Role(testRole, awstest.Role{Subjects: []string{"system:serviceaccount:shop:web"}, Audience: "own.audience"})
	req := b.ask(list(secretsManager, "db"), map[string]string{"audience": "own.audience"})
	b.refused(t, req, provider.ErrDenied, `audience "own.audience"`, "tokenRequests")
	req.Tokens["own.audience"] = b.token("shop", "web", "own.audience")
	b.fetch(t, req)
}

func TestWhoIsNotTrustedIsToldWhy(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("db", []byte("x"))
	stranger := b.ask(list(secretsManager, "db"))
	stranger.Pod.ServiceAccount = "other"
	stranger.Tokens = b.tokens("shop", "other")
	b.refused(t, stranger, provider.ErrDenied, "no AWS credentials for service account shop/other with role "+testRole, "AssumeRoleWithWebIdentity", "AccessDenied",
		"the role must trust system:serviceaccount:shop:other with audience sts.amazonaws.com")
	nobody := b.ask(list(secretsManager, "db"), map[string]string{"roleArn": "arn:aws:iam::123456789012:role/nobody"})
	b.refused(t, nobody, provider.ErrDenied, "role/nobody", "AccessDenied")
	none := b.ask(list(secretsManager, "db"))
	none.Tokens = nil
	b.refused(t, none, provider.ErrDenied, `audience "sts.amazonaws.com"`, "csiDriver.tokenRequests")
}

// What others of the identity have is of no use to who cannot prove it.
func TestCredentialsOfOthersAreNotShared(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("db", []byte("x"))
	b.fetch(t, b.ask(list(secretsManager, "db")))
	thief := b.ask(list(secretsManager, "db"))
	thief.Pod.Namespace = "den"
	thief.Tokens = b.tokens("den", "web")
	b.refused(t, thief, provider.ErrDenied, "den/web")
	late := b.ask(list(secretsManager, "db"))
	for audience, token := range late.Tokens {
		token.Expires = time.Now().Add(-time.Second)
		late.Tokens[audience] = token
	}
	b.refused(t, late, provider.ErrDenied, "no valid service account token")
}

// There used to be a login for each volume, region and poll.
func TestALoginLastsAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackendOf(t, secretsManager, &awstest.Options{Pipe: true})
		b.home.PutSecret("db", []byte("x"))
		held := b.fetch(t, b.ask(list(secretsManager, "db")))
		for range 3 * 60 {
			time.Sleep(time.Minute)
			b.poll(t, b.ask(list(secretsManager, "db")), held)
		}
		if n := b.Count("sts:AssumeRoleWithWebIdentity"); n < 3 || n > 5 {
			t.Errorf("%d logins in three hours", n)
		}
		for _, call := range b.Calls() {
			if call.Code != "" {
				t.Errorf("%s failed with %s", call.Operation, call.Code)
			}
		}
		expect(t, "credentials that are kept", b.provider.wallet.Len(), 1)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		expect(t, "credentials that nobody uses", b.provider.wallet.Len(), 0)
	})
}

func TestAnOutageOfSTSIsBridgedWhileCredentialsLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackendOf(t, secretsManager, &awstest.Options{Pipe: true})
		b.home.PutSecret("db", []byte("x"))
		held := b.fetch(t, b.ask(list(secretsManager, "db")))
		b.home.Fail("sts:AssumeRoleWithWebIdentity", awstest.Fault{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable"})
		time.Sleep(58 * time.Minute)
		b.poll(t, b.ask(list(secretsManager, "db")), held)
		time.Sleep(2 * time.Minute)
		b.refused(t, b.ask(list(secretsManager, "db")), provider.ErrUnavailable, "AssumeRoleWithWebIdentity", "ServiceUnavailable")
	})
}

func TestCredentialsThatAreNotAcceptedAnyMoreAreReplacedOnce(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("db", []byte("x"))
	b.fetch(t, b.ask(list(secretsManager, "db")))
	expired := awstest.Fault{Status: http.StatusBadRequest, Code: "ExpiredTokenException", Message: "The security token included in the request is expired", Times: 1}
	b.home.Fail("secretsmanager:GetSecretValue", expired)
	b.Forget()
	b.fetch(t, b.ask(list(secretsManager, "db")))
	expect(t, "calls", b.counts(), map[string]int{"sts:AssumeRoleWithWebIdentity": 1, "secretsmanager:GetSecretValue": 2})
	expired.Times = 0
	b.home.Fail("secretsmanager:GetSecretValue", expired)
	b.refused(t, b.ask(list(secretsManager, "db")), provider.ErrDenied, "ExpiredTokenException")
	expect(t, "calls", b.counts(), map[string]int{"sts:AssumeRoleWithWebIdentity": 1, "secretsmanager:GetSecretValue": 2})
}

func TestLogsOfAWSNameTheServiceAccount(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("db", []byte("x"))
	b.fetch(t, b.ask(list(secretsManager, "db")))
	calls := b.Calls()
	last := calls[len(calls)-1]
	expect(t, "principal", last.Principal, "arn:aws:sts::123456789012:assumed-role/shop/shop-web")
}

func TestSessionNamesAreWhatAWSAllows(t *testing.T) {
	for account, want := range map[string]string{
		"web":                    "shop-web",
		"system:x/y":             "shop-system-x-y",
		strings.Repeat("a", 100): "shop-" + strings.Repeat("a", 59),
	} {
		expect(t, account, sessionName("shop", account), want)
	}
}

const vaultRole = "arn:aws:iam::210987654321:role/vault"

func TestARoleOfAnotherAccountIsAssumedAfterThat(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("db", []byte("x"))
	b.Role(vaultRole, awstest.Role{Principals: []string{testRole}, ExternalID: "shop-4711"})
	chained := map[string]string{"assumeRoleArn": vaultRole, "externalId": "shop-4711"}
	b.Forget()
	held := b.fetch(t, b.ask(list(secretsManager, "db"), chained))
	b.poll(t, b.ask(list(secretsManager, "db"), chained), held)
	expect(t, "calls", b.counts(), map[string]int{
		"sts:AssumeRoleWithWebIdentity": 1, "sts:AssumeRole": 1, "secretsmanager:GetSecretValue": 1, "secretsmanager:DescribeSecret": 1,
	})
	wrong := map[string]string{"assumeRoleArn": vaultRole, "externalId": "other"}
	b.refused(t, b.ask(list(secretsManager, "db"), wrong), provider.ErrDenied, "AssumeRole of role "+vaultRole, "AccessDenied")
}

func TestPodIdentity(t *testing.T) {
	pods := map[string]string{"roleArn": "", "usePodIdentity": "true"}
	for _, c := range []struct {
		name      string
		preferred string
		off       []string
		fails     string // empty: it works
	}{
		{"by IPv4", "", nil, ""},
		{"by IPv6 where IPv4 does not answer", "", []string{"ipv4"}, ""},
		{"by IPv6 where that is preferred", "IPv6", []string{"ipv4"}, ""},
		{"not by IPv6 where IPv4 is preferred", "ipv4", []string{"ipv4"}, "is the add-on eks-pod-identity-agent installed?"},
		{"not where there is no agent", "auto", []string{"ipv4", "ipv6"}, "is the add-on eks-pod-identity-agent installed?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			b.home.PutSecret("db", []byte("x"))
			b.Agent().Associate("shop", "web", testRole)
			for _, address := range c.off {
				b.Agent().Off(address)
			}
			req := b.ask(list(secretsManager, "db"), pods, map[string]string{"preferredAddressType": c.preferred})
			if c.fails != "" {
				b.refused(t, req, provider.ErrUnavailable, c.fails, "by EKS Pod Identity")
				return
			}
			expect(t, "files", contents(b.fetch(t, req)), map[string]string{"db": "x"})
		})
	}
	b := newBackend(t)
	b.refused(t, b.ask(list(secretsManager, "db"), pods), provider.ErrDenied, "does the service account have an association?")
}

// No pod has the node's credentials by mistake.
func TestNodeCredentialsAreForWhoAsksAndMay(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("db", []byte("x"))
	id, key := b.AccessKey("arn:aws:iam::123456789012:user/node")
	t.Setenv("AWS_ACCESS_KEY_ID", id)
	t.Setenv("AWS_SECRET_ACCESS_KEY", key)
	node := map[string]string{"roleArn": "", "useNodeCredentials": "true"}
	b.provider = b.start(t)
	b.refused(t, b.ask(list(secretsManager, "db"), node), provider.ErrDenied, "--aws-node-credentials")
	b.refused(t, b.ask(list(secretsManager, "db"), map[string]string{"roleArn": "arn:aws:iam::123456789012:role/nobody"}), provider.ErrDenied, "role/nobody")

	b.provider = b.startWith(t, &Options{NodeCredentials: true})
	b.refused(t, b.ask(list(secretsManager, "db"), map[string]string{"roleArn": "arn:aws:iam::123456789012:role/nobody"}), provider.ErrDenied, "role/nobody")
	req := b.ask(list(secretsManager, "db"), node)
	req.Tokens = nil
	expect(t, "files", contents(b.fetch(t, req)), map[string]string{"db": "x"})
}

// Endpoints are the SDK's: by region and partition, and by the environment.
func TestEndpointsAreThoseOfTheSDK(t *testing.T) {
	for _, c := range []struct {
		name, region string
		environment  map[string]string
		want         []string
	}{
		{"a region", testRegion, nil, []string{"secretsmanager.eu-west-1.amazonaws.com:443", "ssm.eu-west-1.amazonaws.com:443", "sts.eu-west-1.amazonaws.com:443"}},
		{"a region of China", "cn-north-1", nil, []string{"secretsmanager.cn-north-1.amazonaws.com.cn:443", "ssm.cn-north-1.amazonaws.com.cn:443", "sts.cn-north-1.amazonaws.com.cn:443"}},
		{"FIPS", "us-east-1", map[string]string{"AWS_USE_FIPS_ENDPOINT": "true"}, []string{"secretsmanager-fips.us-east-1.amazonaws.com:443", "ssm-fips.us-east-1.amazonaws.com:443", "sts-fips.us-east-1.amazonaws.com:443"}},
		{"dual stack", testRegion, map[string]string{"AWS_USE_DUALSTACK_ENDPOINT": "true"}, []string{"secretsmanager.eu-west-1.amazonaws.com:443", "ssm.eu-west-1.api.aws:443", "sts.eu-west-1.api.aws:443"}},
		{"all elsewhere", testRegion, map[string]string{"AWS_ENDPOINT_URL": "http://store.example:4566"}, []string{"store.example:4566"}},
		{"each elsewhere", testRegion, map[string]string{
			"AWS_ENDPOINT_URL_SECRETS_MANAGER": "http://a.example", "AWS_ENDPOINT_URL_SSM": "http://b.example", "AWS_ENDPOINT_URL_STS": "http://c.example",
		}, []string{"a.example:80", "b.example:80", "c.example:80"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, value := range c.environment {
				t.Setenv(name, value)
			}
			b := newBackend(t)
			region := b.Region(c.region)
			region.PutSecret("db", []byte("x"))
			region.PutParameter("p", "y")
			var mu sync.Mutex
			var dialled []string
			b.provider = b.startWith(t, &Options{dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				dialled = append(dialled, address)
				if strings.Contains(address, ".example:") {
					address = strings.TrimPrefix(b.URL, "http://")
					return (&net.Dialer{}).DialContext(ctx, network, address)
				}
				return b.Dial(ctx, network, address)
			}})
			b.fetch(t, b.ask(list(secretsManager, "db")+list(parameterStore, "p"), map[string]string{"region": c.region}))
			mu.Lock() // a connection that turned out not to be needed may still be on its way
			defer mu.Unlock()
			slices.Sort(dialled)
			expect(t, "addresses", slices.Compact(dialled), c.want)
		})
	}
}
