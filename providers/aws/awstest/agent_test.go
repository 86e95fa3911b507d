package awstest_test

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/endpointcreds"

	"github.com/keymount/keymount/providers/aws/awstest"
)

const (
	agentIPv4 = "http://169.254.170.23/v1/credentials"
	agentIPv6 = "http://[fd00:ec2::23]/v1/credentials"
	pods      = "pods.eks.amazonaws.com"
)

// newShop returns a server whose agent knows shop/web.
func newShop(t testing.TB, opts *awstest.Options) *awstest.Server {
	t.Helper()
	s := awstest.New(t, opts)
	s.Role(shop, awstest.Role{})
	s.Agent().Associate("shop", "web", shop)
	s.Region(here).PutSecret("a", []byte("one"))
	return s
}

// ask returns the agent's status and body.
func ask(t testing.TB, c *http.Client, url, token string) (int, string) {
	t.Helper()
	r := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil))
	r.Header.Set("Authorization", token)
	resp := must[*http.Response](t)(c.Do(r))
	defer resp.Body.Close()
	return resp.StatusCode, string(must[[]byte](t)(io.ReadAll(resp.Body)))
}

func TestTheAgentGivesPodsCredentials(t *testing.T) {
	s := newShop(t, nil)
	c := newClient(t, s)
	token := s.ServiceAccountToken("shop", "web", pods, time.Hour)
	for _, url := range []string{agentIPv4, agentIPv6, s.URL + "/v1/credentials"} {
		provider := endpointcreds.New(url, func(o *endpointcreds.Options) { o.HTTPClient, o.AuthorizationToken = c.HTTPClient, token })
		creds := must[aws.Credentials](t)(provider.Retrieve(t.Context()))
		if life := time.Until(creds.Expires); life < 6*time.Hour-time.Minute || life > 6*time.Hour {
			t.Errorf("credentials for %v, want six hours", life)
		}
		pod := c.as(creds.AccessKeyID, creds.SecretAccessKey, creds.SessionToken)
		expect(t, "the value", pod.value(t, "a"), "one")
		if who := pod.identity(t); !strings.HasPrefix(who, "arn:aws:sts::123456789012:assumed-role/shop/eks-awstest-web-") {
			t.Errorf("identity %s", who)
		}
	}
	expect(t, "calls", s.Count("eks-auth:AssumeRoleForPodIdentity"), 3)
}

func TestTheAgentIsOffAtOneAddressOrBoth(t *testing.T) {
	s := newShop(t, nil)
	c := network(t, s)
	token := s.ServiceAccountToken("shop", "web", pods, time.Hour)
	refuses := func(url string) bool {
		resp, err := c.Get(url)
		if err == nil {
			resp.Body.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	s.Agent().Off("ipv4")
	expect(t, "refused", []bool{refuses(agentIPv4), refuses(agentIPv6)}, []bool{true, false})
	s.Agent().Off("ipv6")
	expect(t, "refused", []bool{refuses(agentIPv4), refuses(agentIPv6)}, []bool{true, true})
	s.Agent().On("ipv4")
	status, _ := ask(t, c, agentIPv4, token)
	expect(t, "status", status, http.StatusOK)
}

func TestTheAgentRefuses(t *testing.T) {
	s := newShop(t, nil)
	c := network(t, s)
	s.Agent().Associate("shop", "roleless", "arn:aws:iam::123456789012:role/none")
	s.Agent().Associate("shop", "former", shop)
	s.Agent().Associate("shop", "former", "")
	for _, c2 := range []struct {
		name, token string
		status      int
		part        string
	}{
		{"no token", "", http.StatusBadRequest, "Service account token cannot be empty"},
		{"no JWT", "token", http.StatusBadRequest, "Service account token cannot be parsed"},
		{"an expired token", s.ServiceAccountToken("shop", "web", pods, -time.Second), http.StatusBadRequest, "token is expired"},
		{"another audience", s.ServiceAccountToken("shop", "web", "sts.amazonaws.com", time.Hour), http.StatusBadRequest, "(InvalidTokenException): "},
		{"another cluster", awstest.New(t, nil).ServiceAccountToken("shop", "web", pods, time.Hour), http.StatusBadRequest, "(InvalidTokenException): "},
		{"no association", s.ServiceAccountToken("shop", "other", pods, time.Hour), http.StatusNotFound, "(ResourceNotFoundException): "},
		{"no association any more", s.ServiceAccountToken("shop", "former", pods, time.Hour), http.StatusNotFound, "(ResourceNotFoundException): "},
		{"a role that does not trust it", s.ServiceAccountToken("shop", "roleless", pods, time.Hour), http.StatusBadRequest,
			"(AccessDeniedException): Unauthorized Exception! EKS does not have permissions to assume the associated role., fault: client"},
	} {
		t.Run(c2.name, func(t *testing.T) {
			if status, body := ask(t, c, agentIPv4, c2.token); status != c2.status || !strings.Contains(body, c2.part) {
				t.Errorf("status %d: %s\nwant %d: ...%s", status, body, c2.status, c2.part)
			}
		})
	}
	status, _ := ask(t, c, "http://169.254.170.23/latest/meta-data", "")
	expect(t, "status elsewhere", status, http.StatusNotFound)
}

func TestTheAgentFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newShop(t, &awstest.Options{Pipe: true})
		s.Agent().Lifetime = time.Minute
		c := newClient(t, s)
		token := s.ServiceAccountToken("shop", "web", pods, time.Hour)
		s.Agent().Break()
		status, _ := ask(t, network(t, s), agentIPv4, token)
		expect(t, "status", status, http.StatusServiceUnavailable)
		s.Agent().Repair()
		s.Agent().Fail("eks-auth:AssumeRoleForPodIdentity", awstest.Fault{Status: http.StatusTooManyRequests, Code: "ThrottlingException", Message: "Rate exceeded", Times: 1})
		status, body := ask(t, network(t, s), agentIPv4, token)
		expect(t, "status", status, http.StatusTooManyRequests)
		if !strings.Contains(body, "(ThrottlingException): Rate exceeded") {
			t.Errorf("body %s", body)
		}
		s.Agent().Hang()
		impatient := network(t, s)
		impatient.Timeout = time.Second
		if resp, err := impatient.Get(agentIPv4); err == nil {
			resp.Body.Close()
			t.Errorf("status %d, want no answer", resp.StatusCode)
		}
		s.Agent().Repair()
		provider := endpointcreds.New(agentIPv6, func(o *endpointcreds.Options) { o.HTTPClient, o.AuthorizationToken = c.HTTPClient, token })
		creds := must[aws.Credentials](t)(provider.Retrieve(t.Context()))
		expect(t, "life", time.Until(creds.Expires).Round(time.Second), time.Minute)
	})
}
