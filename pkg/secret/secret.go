// Package secret holds bytes that cannot be printed or encoded by accident.
//
// A Value keeps its bytes in a closure, the one kind of Go value that fmt,
// encoding/json, log/slog and klog cannot walk into, wherever the Value sits:
// in an unexported field, behind a pointer, in a map. Printing it shows a
// fixed mask; encoding it fails. Reveal is the only way to the bytes, so
// listing the callers of Reveal lists every use of plaintext.
package secret

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Mask is what every attempt to print a Value shows.
const Mask = "[secret]"

// errEncode is returned by the encoding methods of Value.
var errEncode = errors.New("a secret value must not be encoded")

// A Value is an immutable sequence of secret bytes. The zero Value is empty.
// Values are safe for concurrent use; copying one copies no bytes. They
// cannot be compared with ==, use Equal.
type Value struct {
	reveal func() []byte
}

// New returns a Value of a copy of b. The copy is overwritten once nothing
// refers to it, when the garbage collector finds that out: see Collect.
func New(b []byte) Value {
	own := forgettable(len(b))
	copy(own, b)
	return Value{reveal: func() []byte { return own }}
}

// Take is New for the one copy that there is: it overwrites b, which nothing
// else may use.
func Take(b []byte) Value {
	v := New(b)
	clear(b)
	return v
}

// Reveal returns the bytes. The caller must not change them, and should use
// them at once rather than keep them.
func (v Value) Reveal() []byte {
	if v.reveal == nil {
		return nil
	}
	return v.reveal()
}

// Len returns the number of bytes.
func (v Value) Len() int { return len(v.Reveal()) }

// Equal reports whether v and w hold the same bytes, in a time that depends
// only on their lengths.
func (v Value) Equal(w Value) bool {
	return subtle.ConstantTimeCompare(v.Reveal(), w.Reveal()) == 1
}

// MAC returns the HMAC-SHA-256 of the bytes: a fingerprint by which whoever has
// the key tells equal values from others, and nobody else tells anything.
func (v Value) MAC(key []byte) []byte {
	sum := make([]byte, 0, sha256.Size)
	Do(func() { // a hash has the end of what it hashed in its state
		mac := hmac.New(sha256.New, key)
		mac.Write(v.Reveal())
		sum = mac.Sum(sum)
	})
	return sum
}

// Format prints Mask for every verb and flag.
func (Value) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, Mask) }

// String returns Mask.
func (Value) String() string { return Mask }

// LogValue returns Mask.
func (Value) LogValue() slog.Value { return slog.StringValue(Mask) }

// MarshalText always fails: a secret is never part of an encoded document.
func (Value) MarshalText() ([]byte, error) { return nil, errEncode }

// MarshalBinary always fails, for encoding/gob.
func (Value) MarshalBinary() ([]byte, error) { return nil, errEncode }
