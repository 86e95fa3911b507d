package plugin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/provider"
)

// An Error is a failure that the provider process reported, or a call that
// did not reach its end. It wraps the sentinel of package provider that its
// code stands for, and the context's error if that ended the call, or the
// *provider.MissingTokenError or *provider.MissingFactsError that the provider
// reported.
type Error struct {
	Provider string     // name
	Class    string     // namespace/name; may be empty
	Code     codes.Code // never OK
	Label    string     // the provider's own word for it; may be empty
	Message  string     // fit to be printed

	cause error // what else it wraps; or nil
}

// Error names the provider, the class, and what the provider said.
func (e *Error) Error() string { return prefix(e.Provider, e.Class) + e.Message }

// Unwrap returns the sentinel, and the cause.
func (e *Error) Unwrap() []error {
	if e.cause != nil {
		return []error{sentinel(e.Code), e.cause}
	}
	return []error{sentinel(e.Code)}
}

// GRPCStatus returns the provider's code with the text of the error.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Error()) }

// remote turns the outcome of a gRPC call into an *Error; nil stays nil. A nil
// req has no secrets.
func (c *client) remote(ctx context.Context, req *provider.Request, err error) error {
	if err == nil {
		return nil
	}
	answer, _ := status.FromError(err)
	message := clean(answer.Message(), bearers(req))
	switch {
	case tooLarge(answer):
		message = fmt.Sprintf("its reply is larger than %d bytes: fetch less in one class, or raise --max-call-recv-msg-size", c.dir.opts.maxRecvMsgSize())
	case message == "":
		message = "it failed with " + answer.Code().String() + " and no message"
	}
	return &Error{Provider: c.name, Class: classOf(req), Code: answer.Code(), Message: message, cause: ctx.Err()}
}

// missing returns the trailer of a failure that is for want of a token or of
// facts; nil for any other.
func missing(req *provider.Request, err error) metadata.MD {
	var token *provider.MissingTokenError
	if errors.As(err, &token) && presentable(req, token.Audience) {
		return metadata.Pairs(metaMissingAudience, token.Audience)
	}
	var facts *provider.MissingFactsError
	if errors.As(err, &facts) && askable(req, facts) {
		if list, err := json.Marshal(facts.Facts); err == nil {
			return metadata.Pairs(metaMissingFacts, string(list))
		}
	}
	return nil
}

// withMissing lets a refusal wrap what its trailer says of a missing token, or
// of missing facts.
func withMissing(req *provider.Request, err error, trailer metadata.MD) error {
	var refusal *Error
	if !errors.As(err, &refusal) {
		return err
	}
	audiences, lists := trailer.Get(metaMissingAudience), trailer.Get(metaMissingFacts)
	switch {
	case refusal.Code == codes.PermissionDenied && len(audiences) == 1 && presentable(req, audiences[0]):
		refusal.cause = &provider.MissingTokenError{Audience: audiences[0]}
	case refusal.Code == codes.InvalidArgument && len(lists) == 1:
		facts := &provider.MissingFactsError{}
		if json.Unmarshal([]byte(lists[0]), &facts.Facts) == nil && askable(req, facts) {
			refusal.cause = facts
		}
	}
	return err
}

// presentable reports whether a name, which goes into messages and to the API
// server, is one short line that shows no secret of the request.
func presentable(req *provider.Request, name string) bool {
	return clean(name, bearers(req)) == name
}

// askable reports whether facts may be asked for by their names.
func askable(req *provider.Request, missing *provider.MissingFactsError) bool {
	return missing.Validate() == nil && !slices.ContainsFunc(missing.Facts, func(fact provider.Fact) bool { return !presentable(req, string(fact)) })
}

// labelled is the failure of a reply that carries an error code.
func (c *client) labelled(req *provider.Request, label string) error {
	label = clean(label, bearers(req))
	return &Error{Provider: c.name, Class: classOf(req), Code: codes.Unavailable, Label: label, Message: "it failed with its error code " + label}
}

// unusable is the failure of a reply that breaks the protocol. Its wording
// depends on what the provider sent.
func (c *client) unusable(req *provider.Request, err error) error {
	return c.failed(req.Class, fmt.Errorf("its reply cannot be used: %s: %w", clean(err.Error(), bearers(req)), provider.ErrInvalid))
}

// failed is the failure of a call on our side.
func (c *client) failed(class string, err error) error {
	return fmt.Errorf("%s%w", prefix(c.name, class), err)
}

func prefix(name, class string) string {
	if class == "" {
		return fmt.Sprintf("provider %q: ", name)
	}
	return fmt.Sprintf("provider %q: class %s: ", name, class)
}

func classOf(req *provider.Request) string {
	if req == nil {
		return ""
	}
	return req.Class
}

// tooLarge recognises gRPC's refusal to receive a message. The code alone
// also means the provider's quotas.
func tooLarge(answer *status.Status) bool {
	return answer.Code() == codes.ResourceExhausted && strings.HasPrefix(answer.Message(), "grpc: received message")
}

// sentinel says what a provider's code means to the driver.
func sentinel(code codes.Code) error {
	switch code {
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.Unimplemented:
		return provider.ErrInvalid
	case codes.NotFound:
		return provider.ErrNotFound
	case codes.PermissionDenied, codes.Unauthenticated:
		return provider.ErrDenied
	default:
		return provider.ErrUnavailable
	}
}

// code says what a Provider's error means to the driver.
func code(err error) codes.Code {
	var answered *Error
	switch {
	case errors.As(err, &answered):
		return answered.Code
	case errors.Is(err, provider.ErrInvalid):
		return codes.InvalidArgument
	case errors.Is(err, provider.ErrNotFound):
		return codes.NotFound
	case errors.Is(err, provider.ErrDenied):
		return codes.PermissionDenied
	case errors.Is(err, provider.ErrUnavailable):
		return codes.Unavailable
	case errors.Is(err, errors.ErrUnsupported):
		return codes.Unimplemented
	case errors.Is(err, context.Canceled):
		return codes.Canceled
	case errors.Is(err, context.DeadlineExceeded):
		return codes.DeadlineExceeded
	default:
		return codes.Internal
	}
}
