package coalesce

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// A key is equal for requests that ask for the same secrets as the same
// identity. It is a keyed hash, so that it tells nothing of the credentials
// that are part of it.
type key [sha256.Size]byte

// key leaves out which pod asks and with which token: two pods of a service
// account get the same answer. It leaves out facts, which are of the account
// and of the node. What a volume holds is looked at later.
func (g *Group) key(name string, req *provider.Request) key {
	h := hasher{hmac.New(sha256.New, g.secret[:])}
	h.text(name)
	h.text(req.Class)
	h.text(req.Pod.Namespace)
	h.text(req.Pod.ServiceAccount)
	h.number(uint64(req.Mode))
	h.number(uint64(len(req.Parameters)))
	for _, name := range slices.Sorted(maps.Keys(req.Parameters)) {
		h.text(name)
		h.text(req.Parameters[name])
	}
	h.number(uint64(len(req.Credentials)))
	for _, name := range slices.Sorted(maps.Keys(req.Credentials)) {
		h.text(name)
		h.bytes(req.Credentials[name].MAC(g.secret[:]))
	}
	for _, audience := range slices.Sorted(maps.Keys(req.Tokens)) {
		h.text(audience)
	}
	return key(h.Sum(nil))
}

// A hasher writes fields such that no two lists of fields look the same.
type hasher struct{ hash.Hash }

func (h hasher) number(n uint64) { _, _ = h.Write(binary.LittleEndian.AppendUint64(nil, n)) }

func (h hasher) text(s string) { h.bytes([]byte(s)) }

func (h hasher) bytes(b []byte) {
	h.number(uint64(len(b)))
	_, _ = h.Write(b)
}

// shareable reports whether others may take part in a fetch of req, or req in
// theirs. A volume with a lease renews its own; an expired token proves
// nothing; and pods that do not say who they are may not be the same.
func shareable(req *provider.Request, now time.Time) bool {
	for _, token := range req.Tokens {
		if token.Expired(now) {
			return false
		}
	}
	return req.Held.Lease.IsZero() && req.Pod.Namespace != "" && req.Pod.ServiceAccount != ""
}

// expiry returns when the first of the tokens expires; zero if none does.
func expiry(tokens provider.Tokens) time.Time {
	var first time.Time
	for _, token := range tokens {
		first = earlier(first, token.Expires)
	}
	return first
}

// earlier returns the earlier of two times of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// clone returns a copy of req that does not change when its caller's does.
func clone(req *provider.Request) *provider.Request {
	own := *req
	own.Parameters = maps.Clone(req.Parameters)
	own.Tokens = maps.Clone(req.Tokens)
	own.Credentials = maps.Clone(req.Credentials)
	own.Facts = maps.Clone(req.Facts)
	own.Held.Versions = maps.Clone(req.Held.Versions)
	return &own
}
