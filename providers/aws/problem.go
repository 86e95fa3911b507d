package aws

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/keymount/keymount/pkg/provider"
)

// maxMessage is how much of a service's message is told.
const maxMessage = 1000

// reasons says what the codes mean that are not plain from the status.
var reasons = map[string]error{
	"ResourceNotFoundException": provider.ErrNotFound,
	"ParameterNotFound":         provider.ErrNotFound,
	"ParameterVersionNotFound":  provider.ErrNotFound,

	"AccessDenied":                 provider.ErrDenied,
	"AccessDeniedException":        provider.ErrDenied,
	"UnrecognizedClientException":  provider.ErrDenied,
	"InvalidClientTokenId":         provider.ErrDenied,
	"ExpiredToken":                 provider.ErrDenied,
	"ExpiredTokenException":        provider.ErrDenied,
	"InvalidIdentityToken":         provider.ErrDenied,
	"IDPRejectedClaim":             provider.ErrDenied,
	"RegionDisabledException":      provider.ErrDenied,
	"OptInRequired":                provider.ErrDenied,
	"InvalidSignatureException":    provider.ErrDenied,
	"SignatureDoesNotMatch":        provider.ErrDenied,
	"IncompleteSignatureException": provider.ErrDenied,
	"MissingAuthenticationToken":   provider.ErrDenied,
	"DecryptionFailure":            provider.ErrDenied, // by the secret's KMS key
	"InvalidKeyId":                 provider.ErrDenied, // the same of a parameter

	"IDPCommunicationError":   provider.ErrUnavailable, // STS cannot reach the cluster's issuer
	"InternalServiceError":    provider.ErrUnavailable,
	"InternalServerError":     provider.ErrUnavailable,
	"InternalFailure":         provider.ErrUnavailable,
	"ServiceUnavailable":      provider.ErrUnavailable,
	"RequestTimeout":          provider.ErrUnavailable,
	"RequestTimeoutException": provider.ErrUnavailable,
	"RequestExpired":          provider.ErrUnavailable, // by the node's clock
	"RequestTimeTooSkewed":    provider.ErrUnavailable,
}

// spent are the codes of credentials that are not accepted any more.
var spent = []string{"ExpiredToken", "ExpiredTokenException", "UnrecognizedClientException", "InvalidClientTokenId"}

// reason says what a service's code and status mean; status is 0 where there
// is none.
func reason(code string, status int) error {
	known, ok := reasons[code]
	_, throttled := retry.DefaultThrottleErrorCodes[code]
	switch {
	case ok:
		return known
	case throttled, status == http.StatusTooManyRequests, status >= http.StatusInternalServerError:
		return provider.ErrUnavailable
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return provider.ErrDenied
	default:
		return provider.ErrInvalid
	}
}

// A problem is what a service answered instead of what it was asked for.
type problem struct {
	code, message, request string
	reason                 error
}

func (p *problem) Error() string {
	text := p.code
	if p.message != "" {
		text += ": " + p.message
	}
	if p.request != "" {
		text += " (request " + p.request + ")"
	}
	return text + ": " + p.reason.Error()
}

func (p *problem) Unwrap() error { return p.reason }

// explain returns what an error of the SDK means, without all that the SDK
// wraps around it. Of an answer that cannot be decoded nothing is told, because
// it may hold a secret.
func explain(err error) error {
	var answered smithy.APIError
	var undecoded *smithy.DeserializationError
	var unsent *smithyhttp.RequestSendError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &answered):
		p := &problem{code: printable(answered.ErrorCode()), message: printable(answered.ErrorMessage())}
		status := 0
		var response *awshttp.ResponseError
		if errors.As(err, &response) {
			p.request, status = printable(response.RequestID), response.HTTPStatusCode()
		}
		p.reason = reason(p.code, status)
		return p
	case errors.As(err, &undecoded):
		return fmt.Errorf("the answer cannot be decoded: %w", provider.ErrUnavailable)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		cause := context.Canceled
		if errors.Is(err, context.DeadlineExceeded) {
			cause = context.DeadlineExceeded
		}
		return fmt.Errorf("no answer: %w: %w", cause, provider.ErrUnavailable)
	case errors.As(err, &unsent):
		return fmt.Errorf("no answer: %s: %w", printable(unsent.Err.Error()), provider.ErrUnavailable)
	default:
		return fmt.Errorf("no answer: %s: %w", printable(err.Error()), provider.ErrUnavailable)
	}
}

// is reports whether err is a service's answer with one of the codes.
func is(err error, codes ...string) bool {
	var p *problem
	return errors.As(err, &p) && slices.Contains(codes, p.code)
}

// joined is errors.Join on one line. There must be an error.
func joined(errs []error) error {
	all := errs[0]
	for _, err := range errs[1:] {
		all = fmt.Errorf("%w; %w", all, err)
	}
	return all
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
