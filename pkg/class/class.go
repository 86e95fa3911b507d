// Package class describes a SecretProviderClass as plain structs, and where
// classes come from. It knows the manifest format of the API group
// secrets-store.csi.x-k8s.io, and nothing of an API server.
package class

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"
	"unicode/utf8"
)

// RotationInterval is the reserved parameter with which a class sets its own
// rotation interval; no provider sees it.
const RotationInterval = "rotationInterval"

// minInterval keeps a class from turning its rotation into a busy loop;
// maxInterval keeps arithmetic with due times away from overflow.
const (
	minInterval = time.Second
	maxInterval = 365 * 24 * time.Hour
)

// maxClass bounds the parameters of one class, all names and values together.
// An API server stores no larger object either.
const maxClass = 1 << 20

var providerName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,30}$`)

var (
	// ErrNotFound: the source answers, and has no such class.
	ErrNotFound = errors.New("class not found")
	// ErrInvalid: the class exists and cannot be used until it is changed.
	ErrInvalid = errors.New("invalid class")
)

// A Name identifies a class.
type Name struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
}

// String returns namespace/name.
func (n Name) String() string { return n.Namespace + "/" + n.Name }

// A Class says which provider to ask, and for what. It is immutable once a
// Source has returned it.
type Class struct {
	Name          Name
	Revision      string // opaque; changes whenever the fields below do
	Generation    int64  `json:"-"` // of the object in an API server; zero elsewhere
	Provider      string
	Parameters    map[string]string
	SecretObjects []SecretObject `json:",omitempty"`
}

// A SecretObject asks for a Kubernetes Secret that holds a copy of files of
// the volume. Nothing in it is checked: whoever writes Secrets does that.
type SecretObject struct {
	SecretName  string
	Type        string
	Labels      map[string]string
	Annotations map[string]string
	Data        []SecretData
}

// SecretData says that a key of a Secret holds the file of the path ObjectName.
type SecretData struct {
	ObjectName string
	Key        string
}

// A Source finds classes. It is safe for concurrent use.
type Source interface {
	// Class returns the class of that name; the error wraps ErrNotFound or
	// ErrInvalid where the source's answer is final.
	Class(ctx context.Context, name Name) (*Class, error)
	// Changes calls changed with the name of each class that is changed,
	// created or removed, until ctx ends.
	Changes(ctx context.Context, changed func(Name)) error
}

// New returns the class c with its Revision. The error says which field of the
// spec to change; it does not name the class and wraps nothing.
func New(c Class) (*Class, error) {
	if !providerName.MatchString(c.Provider) {
		return nil, errors.New("spec.provider is missing or not the name of a provider: use 1 to 30 letters, digits, '-' and '_', such as \"file\"")
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(c.Parameters)) {
		value := c.Parameters[name]
		if !utf8.ValidString(value) || !utf8.ValidString(name) {
			return nil, fmt.Errorf("spec.parameters: %q is not UTF-8 text", name)
		}
		size += len(name) + len(value)
	}
	if size > maxClass {
		return nil, fmt.Errorf("spec.parameters has %d bytes: at most %d are allowed", size, maxClass)
	}
	c.Revision = ""
	text, err := json.Marshal(c)
	if err != nil {
		return nil, errors.New("it cannot be encoded")
	}
	sum := sha256.Sum256(text)
	c.Revision = hex.EncodeToString(sum[:16])
	return &c, nil
}

// Rotation returns the interval at which volumes of the class are refreshed:
// its RotationInterval parameter, else fallback. Zero means never. A malformed
// interval, or one below a second or above a year, is an error that wraps ErrInvalid.
func (c *Class) Rotation(fallback time.Duration) (time.Duration, error) {
	text, ok := c.Parameters[RotationInterval]
	if !ok {
		return fallback, nil
	}
	interval, err := time.ParseDuration(text)
	if err == nil && (interval == 0 || minInterval <= interval && interval <= maxInterval) {
		return interval, nil
	}
	return 0, fmt.Errorf("class %s: parameter %s is %.80q, want a duration such as \"30s\" or \"1h\" from %v to %v, or \"0\" for never: %w",
		c.Name, RotationInterval, text, minInterval, maxInterval, ErrInvalid)
}

// ProviderParameters returns a copy of the parameters without the reserved
// ones. It is the caller's, and never nil.
func (c *Class) ProviderParameters() map[string]string {
	parameters := make(map[string]string, len(c.Parameters))
	maps.Copy(parameters, c.Parameters)
	delete(parameters, RotationInterval)
	return parameters
}
