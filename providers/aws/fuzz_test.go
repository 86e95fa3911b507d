package aws

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// An answering transport gives the same answer to every request.
type answering struct {
	status int
	body   string
}

func (a answering) RoundTrip(req *http.Request) (*http.Response, error) {
	return &http.Response{
		StatusCode: a.status, Status: http.StatusText(a.status), Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}},
		Body: io.NopCloser(strings.NewReader(a.body)), Request: req,
	}, nil
}

// unfit reports whether an error is none that can be shown: it has no reason,
// or is not one short line.
func unfit(err error) bool {
	text := err.Error()
	return provider.Reason(err) == "Internal" || len(text) > 4*maxMessage || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) })
}

// FuzzAgent gives arbitrary answers of the agent of EKS Pod Identity: they are
// whole credentials, or an error that shows neither those nor the pod's token.
func FuzzAgent(f *testing.F) {
	const token, key = "canary-token", "canary-key"
	whole := `{"AccessKeyId":"a","SecretAccessKey":"canary-key","Token":"t","Expiration":"2030-01-01T00:00:00Z"}`
	for _, body := range []string{"", "null", "{}", "[]", whole, whole[:40], strings.Replace(whole, "2030", "x", 1), "no canary-token\nhere", strings.Repeat("é", maxMessage)} {
		for _, status := range []int{200, 400, 403, 429, 500} {
			f.Add(status, body)
		}
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		i := identity{token: secret.New([]byte(token))}
		creds, err := i.askAt(t.Context(), &http.Client{Transport: answering{status, body}}, agentIPv4)
		switch {
		case err == nil && (!creds.HasKeys() || creds.CanExpire == creds.Expires.IsZero()):
			t.Errorf("the credentials are %+v", creds)
		case err != nil && (unfit(err) || strings.Contains(err.Error(), token) || status == http.StatusOK && strings.Contains(err.Error(), key)):
			t.Errorf("the error is %v", err)
		}
	})
}

// FuzzAnswer gives arbitrary answers of AWS to the decoders of the SDK: they
// make a value, or an error without what may be a secret in them.
func FuzzAnswer(f *testing.F) {
	const canary = "canary-5b7e"
	for _, body := range []string{
		"", "null", "{}", "[]", `{"SecretString":"x","VersionId":"v"}`, `{"SecretBinary":"AAEC","VersionId":"v"}`, `{"SecretBinary":"x!","VersionId":"v"}`, `{"SecretString":"x"`, `{"SecretString":["x"]}`,
		`{"Parameters":[{"Name":"s","Value":"x","Version":1,"LastModifiedDate":1.5}]}`, `{"Parameters":[{"Name":"s","Value":"x","Version":1e99}]}`, `{"Parameters":null,"InvalidParameters":["s"]}`, "<html>x",
	} {
		f.Add(200, body)
	}
	for _, body := range []string{`{"__type":"ResourceNotFoundException","message":"no\nx"}`, `{"__type":"a#AccessDeniedException","Message":"m"}`, `{"__type":1}`, "<html>x", `{"__type":"ThrottlingException"}`} {
		f.Add(400, body)
		f.Add(503, body)
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		sdk := aws.Config{
			Region: testRegion, Credentials: aws.AnonymousCredentials{}, Retryer: func() aws.Retryer { return aws.NopRetryer{} },
			HTTPClient: &http.Client{Transport: answering{status, strings.ReplaceAll(body, "x", canary)}},
		}
		_, err := secretsmanager.NewFromConfig(sdk).GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: new("s")})
		checkAnswer(t, status, canary, explain(err))
		_, err = ssm.NewFromConfig(sdk).GetParameters(t.Context(), &ssm.GetParametersInput{Names: []string{"s"}})
		checkAnswer(t, status, canary, explain(err))
	})
}

// checkAnswer reports an error that cannot be shown. What a service says of a
// failure is told; of an answer that should have been a secret nothing is.
func checkAnswer(t *testing.T, status int, canary string, err error) {
	t.Helper()
	if err != nil && (unfit(err) || status == http.StatusOK && strings.Contains(err.Error(), canary)) {
		t.Errorf("of an answer with status %d the error is %v", status, err)
	}
}
