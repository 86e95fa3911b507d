package audit

import (
	"encoding/hex"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/secret"
)

// A Kind is what an Event tells of.
type Kind string

const (
	Start     Kind = "start"     // the log begins, or goes on after a restart
	Fetch     Kind = "fetch"     // a provider was asked for a volume; before anything of the answer reaches it
	Publish   Kind = "publish"   // a volume was mounted with its secrets, or was not
	Rotate    Kind = "rotate"    // the content of a volume was replaced
	Refresh   Kind = "refresh"   // a volume could not be brought up to date, and keeps what it has
	Release   Kind = "release"   // a lease was given back, or was not
	Unpublish Kind = "unpublish" // a volume was removed, or was not
)

// A Decision is how it ended.
type Decision string

const (
	Allow  Decision = "allow"
	Refuse Decision = "refuse" // somebody said no: a store, a provider, a class that cannot be meant
	Fail   Decision = "fail"   // nobody answered, or something else went wrong
)

// An Event is one line of the log. docs/audit.schema.json describes its form.
// It never has a secret: what a file holds is told by a fingerprint, which only
// who has the key of the node can compare with a value.
type Event struct {
	Sequence int64         `json:"seq"`
	Time     time.Time     `json:"time"`
	Node     string        `json:"node"`
	Event    Kind          `json:"event"`
	Pod      *provider.Pod `json:"pod,omitempty"`
	Volume   string        `json:"volume,omitempty"`
	Class    string        `json:"class,omitempty"`
	Revision string        `json:"revision,omitempty"` // of the class
	Provider string        `json:"provider,omitempty"`
	// Source is whether the provider was asked for this volume (store), or
	// answered for several at once (shared).
	Source   Source   `json:"source,omitempty"`
	Objects  []Object `json:"objects,omitempty"`
	Files    []File   `json:"files,omitempty"`
	Lease    string   `json:"lease,omitempty"` // fingerprint of its ID
	Decision Decision `json:"decision"`
	Reason   string   `json:"reason,omitempty"`  // of what is not allowed: Invalid, NotFound, Denied, Unavailable or Internal
	Message  string   `json:"message,omitempty"` // the error, of at most 1,024 bytes
	Millis   float64  `json:"ms,omitempty"`      // how long it took
	Trace    string   `json:"trace,omitempty"`   // ID of the trace that it belongs to, 32 hexadecimal digits
	Lost     int64    `json:"lost,omitempty"`    // events before this one that could not be written
	Previous string   `json:"prev"`              // SHA-256 of the line before, without its end; of the first line 64 zeros
}

// A Source is where a bundle comes from.
type Source string

const (
	Store  Source = "store"
	Shared Source = "shared"
)

// An Object is one of a bundle.
type Object struct {
	ID      string `json:"id"`
	Version string `json:"version"`
}

// A File is one of a bundle.
type File struct {
	Path        string `json:"path"`
	Fingerprint string `json:"fingerprint"`
}

// maxMessage bounds what an event tells of an error.
const maxMessage = 1024

// ended fills in how something ended.
func (e *Event) ended(began time.Time, err error) {
	e.Millis = float64(time.Since(began).Microseconds()) / 1000
	e.Decision = Allow
	if err == nil {
		return
	}
	e.Reason, e.Decision = publish.Reason(err), Refuse
	if e.Reason == "Unavailable" || e.Reason == "Internal" {
		e.Decision = Fail
	}
	e.Message = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text(err.Error()))
	if len(e.Message) > maxMessage {
		e.Message = strings.ToValidUTF8(e.Message[:maxMessage], "")
	}
}

// bundle fills in what was fetched. The key makes the fingerprints.
func (e *Event) bundle(b *provider.Bundle, key []byte) {
	for id, version := range b.Versions {
		e.Objects = append(e.Objects, Object{text(id), text(version)})
	}
	slices.SortFunc(e.Objects, func(a, b Object) int { return strings.Compare(a.ID, b.ID) })
	if !b.Unchanged {
		for _, f := range b.Files {
			e.Files = append(e.Files, File{text(f.Path), fingerprint(f.Data, key)})
		}
	}
	e.Lease = leaseOf(b.Lease, key)
}

// size is about how many bytes of memory the event takes.
func (e *Event) size() int64 {
	n := 1 << 10
	for _, o := range e.Objects {
		n += 64 + len(o.ID) + len(o.Version)
	}
	for _, f := range e.Files {
		n += 64 + len(f.Path)
	}
	return int64(n)
}

// text is what JSON makes of a text.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func leaseOf(l provider.Lease, key []byte) string {
	if l.ID == "" {
		return ""
	}
	return fingerprint(secret.New([]byte(l.ID)), key)
}

// fingerprint is half of a keyed hash, which is enough to tell values apart.
func fingerprint(v secret.Value, key []byte) string { return hex.EncodeToString(v.MAC(key)[:16]) }
