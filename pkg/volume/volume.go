// Package volume remembers published volumes, in memory and across restarts.
// What it remembers never contains a secret or a token.
package volume

import (
	"errors"
	"time"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// ErrNotFound: no volume of that ID is published on this node.
var ErrNotFound = errors.New("volume not found")

// An ID is the name that kubelet gives to a volume of one pod.
type ID string

// A Volume is what kubelet asks to have published.
type Volume struct {
	ID          ID
	Target      string // absolute path of the mount point
	Class       class.Name
	Pod         provider.Pod
	Attributes  map[string]string // the pod's volume attributes and kubelet's pod information, without tokens
	Tokens      provider.Tokens
	Credentials map[string]secret.Value
	Group       *int64 // supplemental group that owns the files; nil for root
}

// A Record is what is known of a published volume. A Record in a Store is
// never modified in place.
type Record struct {
	ID         ID                `json:"id"`
	Target     string            `json:"target"`
	Mount      uint64            `json:"mount"` // identity of the mount at Target
	Class      class.Name        `json:"class"`
	Revision   string            `json:"revision"` // of the class that was fetched
	Provider   string            `json:"provider"`
	Pod        provider.Pod      `json:"pod"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Group      *int64            `json:"group,omitempty"`
	Held       provider.Held     `json:"held,omitzero"`

	// Secretive says that the last fetch was made with tokens or credentials,
	// which a restart forgets and kubelet brings again.
	Secretive bool `json:"secretive,omitempty"`

	Published time.Time `json:"published"`        // first success
	Refreshed time.Time `json:"refreshed"`        // last success
	Due       time.Time `json:"due,omitzero"`     // next refresh; zero: never
	Expires   time.Time `json:"expires,omitzero"` // when something of it is no longer to be used; zero: nothing says so
	Stale     Staleness `json:"stale,omitzero"`   // why it is older than it should be
}

// Staleness says that refreshes fail and the volume serves what it held. The
// zero Staleness means that the last refresh succeeded.
type Staleness struct {
	Since    time.Time `json:"since"`    // first failure in a row
	Failures int       `json:"failures"` // in a row
	Reason   string    `json:"reason"`   // as provider.Reason
	Message  string    `json:"message"`
}

// IsZero reports whether nothing is stale.
func (s Staleness) IsZero() bool { return s.Failures == 0 }

// A Store keeps the records of published volumes. It is safe for concurrent
// use; reads never touch a disk.
type Store interface {
	Get(id ID) (Record, bool)
	Put(record Record) error
	Delete(id ID) error // no error if there is none
	List() []Record     // ordered by ID
	Len() int
}
