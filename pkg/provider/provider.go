// Package provider is the contract between Keymount and a backend that holds
// secrets. It says what a fetch is asked for, what it returns, and how it
// fails; it knows nothing of mounts, sockets or Kubernetes.
//
// The same interface is implemented by a backend in this process, by the
// client of a provider process behind a socket, and by decorators around
// either. Package providertest checks an implementation against the contract.
package provider

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"time"

	"github.com/keymount/keymount/pkg/secret"
)

// A Provider fetches the secrets of one volume from one kind of backend.
//
// Fetch is all or nothing: on error no file is valid. It honours ctx, is safe
// for concurrent use, and neither keeps nor changes req. Errors wrap one of
// the sentinels of this package and never contain secret bytes.
type Provider interface {
	Fetch(ctx context.Context, req *Request) (*Bundle, error)
}

// The reasons for which a fetch fails. Every error of a Provider wraps one of
// them; an error that wraps none is a bug of the provider.
var (
	// ErrInvalid: the request cannot succeed until its author changes it.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: the backend answers, and has no such object.
	ErrNotFound = errors.New("not found")
	// ErrDenied: the backend answers, and refuses this identity.
	ErrDenied = errors.New("denied")
	// ErrUnavailable: no answer, or none that says anything; try again.
	ErrUnavailable = errors.New("unavailable")
)

// A Request asks for all files of one volume.
type Request struct {
	Class       string                  // namespace/name of the SecretProviderClass, for messages only
	Parameters  map[string]string       // spec.parameters of the class, and the pod's volume attributes
	Pod         Pod                     // on whose behalf
	Tokens      Tokens                  // the pod's service account tokens
	Credentials map[string]secret.Value // the Secret that nodePublishSecretRef names
	Facts       Facts                   // what the provider missed before, see MissingFactsError
	Held        Held                    // what the volume holds already; zero on first publish
	Mode        fs.FileMode             // for files whose object names none
	Dir         string                  // the mounted target; only for plugins that write into it themselves
}

// A Pod is the identity on whose behalf secrets are fetched.
type Pod struct {
	Namespace      string `json:"namespace"`
	Name           string `json:"name"`
	UID            string `json:"uid"`
	ServiceAccount string `json:"serviceAccount,omitempty"`
}

// Tokens holds service account tokens by audience.
type Tokens map[string]Token

// A Token is a service account token of a pod, bound to one audience.
type Token struct {
	Value   secret.Value
	Expires time.Time
}

// Live returns the tokens that are still valid at now.
func (t Tokens) Live(now time.Time) Tokens {
	live := maps.Clone(t)
	maps.DeleteFunc(live, func(_ string, token Token) bool { return token.Expired(now) })
	return live
}

// Expired reports whether the token is of no use at now. A token without an
// expiry does not expire.
func (t Token) Expired(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

// Held is what a volume has from an earlier fetch.
type Held struct {
	Versions Versions `json:"versions,omitempty"`
	Lease    Lease    `json:"lease,omitzero"`
}

// Versions maps the ID of an object to its opaque version. Equal versions of
// one object mean equal bytes.
type Versions map[string]string

// Equal reports whether v and w name the same versions of the same objects.
func (v Versions) Equal(w Versions) bool { return maps.Equal(v, w) }

// A Lease is the backend's promise to keep dynamic credentials alive. The
// zero Lease means that nothing is leased.
type Lease struct {
	ID      string    `json:"id,omitempty"`
	Expires time.Time `json:"expires,omitzero"`
}

// IsZero reports whether nothing is leased.
func (l Lease) IsZero() bool { return l.ID == "" && l.Expires.IsZero() }

// A Bundle is the whole content of one volume.
type Bundle struct {
	Files    []File
	Versions Versions
	// Lease is renewed by the next Fetch that holds it. A leased bundle is
	// never shared between volumes.
	Lease Lease
	// Refresh is when asking again is worth it; zero means the driver's interval.
	Refresh time.Time
	// Expires is when something of it is no longer to be used; zero means that
	// nothing says so. The driver asks again before that.
	Expires time.Time
	// Unchanged says that the volume already holds Versions; Files is ignored.
	Unchanged bool
	// Warnings say what is wrong with what is served, also while it is Unchanged.
	Warnings []Warning
}

// A File is one file of a volume.
type File struct {
	Path string      // relative and slash-separated
	Mode fs.FileMode // permission bits
	Data secret.Value
}

// A Lookup returns the provider of the name that a class uses.
type Lookup func(name string) (Provider, error)

// A Middleware decorates the provider of a name. The decorator should have a
// method Unwrap() Provider, so that the optional interfaces stay reachable.
type Middleware func(name string, next Provider) Provider

// Decorate returns lookup with the middlewares around each provider, the last
// one outermost.
func Decorate(lookup Lookup, middlewares ...Middleware) Lookup {
	return func(name string) (Provider, error) {
		p, err := lookup(name)
		if err != nil {
			return nil, err
		}
		for _, decorate := range middlewares {
			p = decorate(name, p)
		}
		return p, nil
	}
}

// A Releaser gives back what a lease holds in the backend. Optional.
type Releaser interface {
	// Release ends the lease. It is idempotent.
	Release(ctx context.Context, lease Lease) error
}

// A Notifier tells of changes in the backend as they happen. Optional.
type Notifier interface {
	// Changes calls changed with the ID of each object that changes, until
	// ctx ends or the backend can no longer tell; it returns the reason, which
	// wraps errors.ErrUnsupported where the backend never could. An empty ID
	// means that any object may have changed. The first call has an empty ID,
	// and comes as soon as no change will be missed any more.
	Changes(ctx context.Context, changed func(objectID string)) error
}

// As returns the first provider in p's chain of Unwrap methods that
// implements T.
func As[T any](p Provider) (T, bool) {
	for p != nil {
		if t, ok := p.(T); ok {
			return t, true
		}
		wrapper, ok := p.(interface{ Unwrap() Provider })
		if !ok {
			break
		}
		p = wrapper.Unwrap()
	}
	var none T
	return none, false
}

// Reason returns the name of the sentinel that err wraps: "Invalid",
// "NotFound", "Denied" or "Unavailable"; "Internal" for any other error, and
// "" for nil. It is meant for metric labels and status reasons.
func Reason(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, ErrInvalid):
		return "Invalid"
	case errors.Is(err, ErrNotFound):
		return "NotFound"
	case errors.Is(err, ErrDenied):
		return "Denied"
	case errors.Is(err, ErrUnavailable):
		return "Unavailable"
	default:
		return "Internal"
	}
}
