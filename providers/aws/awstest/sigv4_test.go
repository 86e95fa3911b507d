package awstest_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/keymount/keymount/providers/aws/awstest"
)

// A message is a request, and how it is signed.
type message struct {
	body, service, region string
	creds                 aws.Credentials
	at                    time.Time
	unsigned              bool
	after                 func(r *http.Request) // signing
}

// send returns the status, the code and the message of the answer.
func (m *message) send(t *testing.T, c *http.Client, url string, header http.Header) (status int, code, text string) {
	t.Helper()
	r := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodPost, url, strings.NewReader(m.body)))
	r.Header = header.Clone()
	if !m.unsigned {
		sum := sha256.Sum256([]byte(m.body))
		if err := v4.NewSigner().SignHTTP(t.Context(), m.creds, r, hex.EncodeToString(sum[:]), m.service, m.region, m.at); err != nil {
			t.Fatal(err)
		}
	}
	if m.after != nil {
		m.after(r)
	}
	resp := must[*http.Response](t)(c.Do(r))
	defer resp.Body.Close()
	body := must[[]byte](t)(io.ReadAll(resp.Body))
	if resp.Header.Get("Content-Type") == "text/xml" {
		var answer struct {
			Error struct{ Code, Message string }
		}
		if err := xml.Unmarshal(body, &answer); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, answer.Error.Code, answer.Error.Message
	}
	var answer struct {
		Type    string `json:"__type"`
		Message string // in any case
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, answer.Type, answer.Message
}

// A signedService is how to call a service, and how it says what of a
// signature is wrong.
type signedService struct {
	name, url, body string
	header          http.Header
	codes           []string // of: none, an unknown key, one that does not match, an incomplete one
	status          int      // of all but the last
}

func signedServices() []signedService {
	ofJSON := []string{"MissingAuthenticationTokenException", "UnrecognizedClientException", "InvalidSignatureException", "IncompleteSignatureException"}
	header := func(target string) http.Header {
		return http.Header{"X-Amz-Target": {target}, "Content-Type": {"application/x-amz-json-1.1"}}
	}
	return []signedService{
		{"secretsmanager", "https://secretsmanager.eu-west-1.amazonaws.com/", `{"SecretId":"a"}`, header("secretsmanager.GetSecretValue"), ofJSON, http.StatusBadRequest},
		{"ssm", "https://ssm.eu-west-1.amazonaws.com/", `{"Name":"a"}`, header("AmazonSSM.GetParameter"), ofJSON, http.StatusBadRequest},
		{
			"sts", "https://sts.eu-west-1.amazonaws.com/", "Action=GetCallerIdentity&Version=2011-06-15", http.Header{"Content-Type": {"application/x-www-form-urlencoded"}},
			[]string{"MissingAuthenticationToken", "InvalidClientTokenId", "SignatureDoesNotMatch", "IncompleteSignature"}, http.StatusForbidden,
		},
	}
}

func TestSignaturesAreMadeAgain(t *testing.T) {
	s := awstest.New(t, nil)
	s.Region(here).PutSecret("a", []byte("one"))
	s.Region(here).PutParameter("a", "one")
	c := network(t, s)
	id, secret := s.AccessKey(user)
	const region, mismatch = "Credential should be scoped to a valid region. ", "The request signature we calculated does not match"
	for _, service := range signedServices() {
		for _, c2 := range []struct {
			name   string
			change func(m *message)
			code   int // index of codes; -1: none
			text   string
		}{
			{"a good one is accepted", func(*message) {}, -1, ""},
			{"four minutes ago is now", func(m *message) { m.at = m.at.Add(-4 * time.Minute) }, -1, ""},
			{"none", func(m *message) { m.unsigned = true }, 0, "Authentication Token"},
			{"another scheme", func(m *message) {
				m.after = func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }
			}, 0, "Authentication Token"},
			{"an unknown key", func(m *message) { m.creds.AccessKeyID = "AKIAIOSFODNN7EXAMPLE" }, 1, "The security token included in the request is invalid."},
			{"a session token that is none", func(m *message) { m.creds.SessionToken = "token" }, 1, "The security token included in the request is invalid."},
			{"another secret", func(m *message) { m.creds.SecretAccessKey = "other" }, 2, mismatch},
			{"another body", func(m *message) {
				m.after = func(r *http.Request) {
					r.Body = io.NopCloser(bytes.NewReader([]byte(strings.Replace(m.body, "e", "E", 1))))
				}
			}, 2, mismatch},
			{"another header", func(m *message) { m.after = func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") } }, 2, mismatch},
			{"another address", func(m *message) { m.after = func(r *http.Request) { r.URL.RawQuery = "x=y" } }, 2, mismatch},
			{"another region", func(m *message) { m.region = "us-east-1" }, 2, region},
			{"another service", func(m *message) { m.service = "s3" }, 2, "Credential should be scoped to correct service: '"},
			{"another region and service", func(m *message) { m.service, m.region = "s3", "us-east-1" }, 2, region + "Credential should be scoped to correct service: '"},
			{"an old one", func(m *message) { m.at = m.at.Add(-6 * time.Minute) }, 2, "Signature expired: "},
			{"one of the future", func(m *message) { m.at = m.at.Add(6 * time.Minute) }, 2, "Signature not yet current: "},
			{"another day", func(m *message) {
				m.after = func(r *http.Request) { r.Header.Set("X-Amz-Date", "20200101T000000Z") }
			}, 3, "Date in Credential scope"},
			{"half a one", func(m *message) {
				m.after = func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential="+id) }
			}, 3, "does not conform to AWS standards."},
		} {
			t.Run(service.name+"/"+c2.name, func(t *testing.T) {
				m := &message{body: service.body, service: service.name, region: here, creds: aws.Credentials{AccessKeyID: id, SecretAccessKey: secret}, at: time.Now()}
				c2.change(m)
				status, code, text := m.send(t, c, service.url, service.header)
				wantStatus, wantCode := http.StatusOK, ""
				if c2.code >= 0 {
					wantStatus, wantCode = service.status, service.codes[c2.code]
				}
				if c2.code == 3 {
					wantStatus = http.StatusBadRequest
				}
				if status != wantStatus || code != wantCode || !strings.Contains(text, c2.text) {
					t.Errorf("status %d and %s: %s\nwant %d and %s: ...%s", status, code, text, wantStatus, wantCode, c2.text)
				}
			})
		}
	}
}

func TestRequestsThatMeanNothingAreRefused(t *testing.T) {
	s := awstest.New(t, nil)
	c := network(t, s)
	id, secret := s.AccessKey(user)
	for _, c2 := range []struct {
		name, url, target, body, code string
	}{
		{"no operation", "https://secretsmanager.eu-west-1.amazonaws.com/", "", "{}", "UnknownOperationException"},
		{"a service that is none here", "https://secretsmanager.eu-west-1.amazonaws.com/", "DynamoDB_20120810.GetItem", "{}", "UnknownOperationException"},
		{"an operation of another service", "https://secretsmanager.eu-west-1.amazonaws.com/", "AmazonSSM.GetParameter", "{}", "UnknownOperationException"},
		{"no JSON", "https://secretsmanager.eu-west-1.amazonaws.com/", "secretsmanager.GetSecretValue", "{", "SerializationException"},
		{"another type", "https://secretsmanager.eu-west-1.amazonaws.com/", "secretsmanager.GetSecretValue", `{"SecretId":1}`, "SerializationException"},
		{"nothing", "https://secretsmanager.eu-west-1.amazonaws.com/", "secretsmanager.GetSecretValue", "", "ValidationException"},
	} {
		t.Run(c2.name, func(t *testing.T) {
			m := &message{body: c2.body, service: "secretsmanager", region: here, creds: aws.Credentials{AccessKeyID: id, SecretAccessKey: secret}, at: time.Now()}
			status, code, text := m.send(t, c, c2.url, http.Header{"X-Amz-Target": {c2.target}})
			if status != http.StatusBadRequest || code != c2.code {
				t.Errorf("status %d and %s: %s\nwant 400 and %s", status, code, text, c2.code)
			}
		})
	}
}
