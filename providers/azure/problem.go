package azure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strings"
	"unicode"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// maxMessage is how much of a service's message is told.
const maxMessage = 1000

// A problem is what a service answered instead of what it was asked for.
type problem struct {
	status               int
	code, inner, message string
	request              string
	reason               error
}

func (p *problem) Error() string {
	text := fmt.Sprint(p.status)
	if p.code != "" {
		text += " " + p.code
	}
	if p.inner != "" {
		text += " (" + p.inner + ")"
	}
	if p.message != "" {
		text += ": " + p.message
	}
	if p.request != "" {
		text += " (request " + p.request + ")"
	}
	return text + ": " + p.reason.Error()
}

func (p *problem) Unwrap() error { return p.reason }

// status returns that of a service's answer, 0 if err is none.
func status(err error) int {
	var p *problem
	if errors.As(err, &p) {
		return p.status
	}
	return 0
}

// explain returns what an error of the SDK means, without all that the SDK
// wraps around it. What proves an identity is not part of it, should a service
// return that.
func explain(ctx context.Context, err error, proof secret.Value) error {
	var answered *azcore.ResponseError
	var refused *azidentity.AuthenticationFailedError
	var nowhere *net.DNSError
	switch {
	case err == nil:
		return nil
	case provider.Reason(err) != "Internal": // it is our own
		return err
	case errors.As(err, &answered) && answered.RawResponse != nil:
		return describe(answered.RawResponse, proof)
	case errors.As(err, &refused) && refused.RawResponse != nil:
		return describe(refused.RawResponse, proof)
	case ctx.Err() != nil:
		return fmt.Errorf("no answer: %w: %w", context.Cause(ctx), provider.ErrUnavailable)
	case errors.As(err, &nowhere) && nowhere.IsNotFound:
		return fmt.Errorf("no answer: there is no host %s: %w", printable(nowhere.Name), provider.ErrUnavailable)
	default:
		return fmt.Errorf("no answer: %s: %w", printable(hidden(err.Error(), proof)), provider.ErrUnavailable)
	}
}

// describe returns what an answer says that is no success. Of Key Vault that is
// an error with a code, a message and a more precise code within; of Entra ID
// and the metadata service an error with a description, which begins with the
// code that matters.
func describe(resp *http.Response, proof secret.Value) *problem {
	p := &problem{status: resp.StatusCode}
	if body, err := runtime.Payload(resp); err == nil {
		p.read(body)
	}
	p.request = resp.Header.Get("x-ms-request-id")
	for _, text := range []*string{&p.code, &p.inner, &p.message, &p.request} {
		*text = printable(hidden(*text, proof))
	}
	p.reason = p.means()
	return p
}

// read takes what a body says, as it is.
func (p *problem) read(body []byte) {
	var envelope struct {
		Error       json.RawMessage `json:"error"`
		Description string          `json:"error_description"`
	}
	var vaults struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Inner   struct {
			Code string `json:"code"`
		} `json:"innererror"`
	}
	switch {
	case json.Unmarshal(bytes.TrimSpace(body), &envelope) != nil:
	case json.Unmarshal(envelope.Error, &vaults) == nil:
		p.code, p.inner, p.message = vaults.Code, vaults.Inner.Code, vaults.Message
	case json.Unmarshal(envelope.Error, &p.code) == nil:
		text, _, _ := strings.Cut(envelope.Description, "Trace ID:")
		p.inner = entraCode.FindString(text)
		p.message = strings.TrimLeft(strings.TrimPrefix(text, p.inner), ": ")
	}
}

// entraCode matches the code of Entra ID that a description begins with.
var entraCode = regexp.MustCompile(`^AADSTS\d+`)

// means returns the reason that an answer stands for. What is not found is only
// what a vault says so of: others that are in the way may answer 404 as well.
func (p *problem) means() error {
	switch {
	case p.status == http.StatusNotFound && strings.HasSuffix(p.code, "NotFound"):
		return provider.ErrNotFound
	case p.status == http.StatusUnauthorized, p.status == http.StatusForbidden:
		return provider.ErrDenied
	case p.status == http.StatusBadRequest:
		return provider.ErrInvalid
	default:
		return provider.ErrUnavailable
	}
}

// hidden returns the text without what proves an identity.
func hidden(text string, proof secret.Value) string {
	if proof.Len() == 0 {
		return text
	}
	return strings.ReplaceAll(text, string(proof.Reveal()), secret.Mask)
}

// printable returns a bounded text on one line.
func printable(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.TrimSpace(text))
	if len(text) > maxMessage {
		text = strings.ToValidUTF8(text[:maxMessage], "") + "..."
	}
	return text
}
