package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

const (
	maxBody  = 8 << 20 // bytes of an answer
	maxError = 512     // bytes of what the server says of a failure

	maxSeconds = int64(math.MaxInt64 / time.Second)
)

// A call is one request to the server.
type call struct {
	method    string
	path      string // below /v1/
	query     url.Values
	body      secret.Value // JSON; empty for none
	namespace string
	token     secret.Value
}

// String names the call in errors.
func (c call) String() string { return c.method + " " + c.path }

// post returns a call with fields as its body.
func post(path string, fields map[string]string) call {
	body, _ := json.Marshal(fields) //nolint:errchkjson // text always can be written
	return call{method: http.MethodPost, path: path, body: secret.New(body)}
}

// A response is an answer of the server that is no error.
type response struct {
	request   string // for errors
	leaseID   string
	lease     time.Duration
	renewable bool
	auth      *auth
	body      secret.Value
}

// auth is what a response says of a token.
type auth struct {
	token     secret.Value
	accessor  string
	lifetime  time.Duration // zero: no end
	renewable bool
	kind      string // service or batch
}

// envelope is what every response has around its data.
type envelope struct {
	LeaseID       string          `json:"lease_id"`
	LeaseDuration int64           `json:"lease_duration"`
	Renewable     bool            `json:"renewable"`
	Data          json.RawMessage `json:"data"`
	Auth          *struct {
		ClientToken   string `json:"client_token"`
		Accessor      string `json:"accessor"`
		LeaseDuration int64  `json:"lease_duration"`
		Renewable     bool   `json:"renewable"`
		TokenType     string `json:"token_type"`
	} `json:"auth"`
}

// do makes a call, and makes it again after failures that pass. The error is a
// *refusal where the server answered.
func (c *connection) do(ctx context.Context, call call) (*response, error) {
	client, base, err := c.client()
	if err != nil {
		return nil, err
	}
	request, err := call.request(ctx, base)
	if err != nil {
		return nil, err
	}
	answer, err := client.Do(request)
	if answer != nil {
		defer answer.Body.Close()
	}
	if err != nil && (answer == nil || answer.StatusCode < http.StatusBadRequest) {
		return nil, unreachable(ctx, c.address, call, err)
	}
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxBody+1))
	switch {
	case err != nil:
		return nil, unreachable(ctx, c.address, call, err)
	case len(body) > maxBody:
		return nil, fmt.Errorf("%v: the answer has more than %d bytes: %w", call, maxBody, provider.ErrInvalid)
	case answer.StatusCode < 200 || answer.StatusCode > 299:
		return nil, refused(call, c.address, answer.StatusCode, body)
	}
	return parseResponse(call, body)
}

func (c call) request(ctx context.Context, base *url.URL) (*retryablehttp.Request, error) {
	target := base.JoinPath("v1")
	target = &url.URL{Scheme: target.Scheme, Host: target.Host, Path: target.Path + "/" + c.path, RawQuery: c.query.Encode()}
	var body any
	if c.body.Len() > 0 {
		body = c.body.Reveal()
	}
	request, err := retryablehttp.NewRequestWithContext(ctx, c.method, target.String(), body)
	if err != nil {
		return nil, fmt.Errorf("%v is not a request that can be made: %w", c, provider.ErrInvalid)
	}
	request.Header.Set("X-Vault-Request", "true") // agents refuse what comes without, for fear of forged requests
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	if c.token.Len() > 0 {
		request.Header.Set("X-Vault-Token", string(c.token.Reveal()))
	}
	if c.namespace != "" {
		request.Header.Set("X-Vault-Namespace", c.namespace)
	}
	return request, nil
}

// parseResponse reads what is around the data. No body is an answer too.
func parseResponse(call call, body []byte) (*response, error) {
	r := &response{request: call.String(), body: secret.New(body)}
	if len(body) == 0 {
		return r, nil
	}
	var e envelope
	if err := r.decode(&e); err != nil {
		return nil, err
	}
	r.leaseID, r.renewable, r.lease = e.LeaseID, e.Renewable, seconds(e.LeaseDuration)
	if e.Auth != nil && e.Auth.ClientToken != "" {
		r.auth = &auth{
			token: secret.New([]byte(e.Auth.ClientToken)), accessor: e.Auth.Accessor, kind: e.Auth.TokenType,
			lifetime: seconds(e.Auth.LeaseDuration), renewable: e.Auth.Renewable,
		}
	}
	return r, nil
}

// seconds is that number of them: never less than none, and no more than a
// Duration can be.
func seconds(n int64) time.Duration {
	return time.Duration(min(max(0, n), maxSeconds)) * time.Second
}

// empty reports whether there is nothing in the response.
func (r *response) empty() bool {
	var e envelope
	return r.body.Len() == 0 || r.decode(&e) != nil || len(e.Data) == 0 && e.Auth == nil || string(e.Data) == "null" && e.Auth == nil
}

// A refusal is an answer of the server that is an error.
type refusal struct {
	request string
	status  int
	said    string
	reason  error // one of the sentinels
}

func (r *refusal) Error() string {
	said := r.said
	if said == "" {
		said = http.StatusText(r.status)
	}
	return fmt.Sprintf("%s: %d: %s: %v", r.request, r.status, said, r.reason)
}

func (r *refusal) Unwrap() error { return r.reason }

// refused returns the refusal of a call. What the server says, never what it
// holds, is part of it.
func refused(call call, address string, status int, body []byte) *refusal {
	said := whatServerSays(body)
	r := &refusal{request: call.String() + " at " + address, status: status, said: said, reason: provider.ErrUnavailable}
	switch {
	case strings.HasPrefix(said, "Upgrading from"): // a key-value engine that was just made
	case status == http.StatusForbidden || status == http.StatusUnauthorized:
		r.reason = provider.ErrDenied
	case status == http.StatusNotFound:
		r.reason = provider.ErrNotFound
	case status == http.StatusPreconditionFailed || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout:
	case status >= 300 && status < 500 || status == http.StatusNotImplemented:
		r.reason = provider.ErrInvalid
	}
	return r
}

// whatServerSays returns the server's words in the body of a refusal, or in
// their place what the key-value engine tells of a version that is deleted.
func whatServerSays(body []byte) string {
	var e struct {
		Errors   []string `json:"errors"`
		Warnings []string `json:"warnings"`
		Data     struct {
			Metadata struct {
				Version  json.Number `json:"version"`
				Deletion string      `json:"deletion_time"`
			} `json:"metadata"`
		} `json:"data"`
	}
	_ = json.Unmarshal(body, &e) // else the status alone tells
	if m := e.Data.Metadata; m.Deletion != "" {
		return oneLine(fmt.Sprintf("version %s was deleted at %s", m.Version, m.Deletion))
	}
	return oneLine(strings.Join(slices.Concat(e.Errors, e.Warnings), "; "))
}

// oneLine makes what a server says fit for a log.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?"))
	text = strings.Join(strings.Fields(text), " ")
	text = strings.TrimPrefix(text, "1 error occurred: * ")
	if len(text) > maxError {
		text = strings.ToValidUTF8(text[:maxError], "") + "..."
	}
	return text
}

// status returns what the server answered; zero if err is no answer.
func status(err error) int {
	var r *refusal
	if errors.As(err, &r) {
		return r.status
	}
	return 0
}

// unreachable is the error of a call that got no answer.
func unreachable(ctx context.Context, address string, call call, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err // without the URL, which is said already
	}
	return fmt.Errorf("%v at %s: %w: %w", call, address, err, provider.ErrUnavailable)
}

// retry decides whether a call is made again: after what passes, and not after
// a wait that is longer than the caller's patience.
func retry(ctx context.Context, answer *http.Response, err error) (bool, error) {
	repeat, _ := retryablehttp.DefaultRetryPolicy(ctx, answer, err)
	if answer != nil && answer.StatusCode == http.StatusPreconditionFailed {
		repeat = true // a standby that has not caught up yet
	}
	if deadline, ok := ctx.Deadline(); ok && repeat && retryablehttp.RateLimitLinearJitterBackoff(0, 0, 0, answer) > time.Until(deadline) {
		repeat = false
	}
	return repeat, err
}
