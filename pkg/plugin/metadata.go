package plugin

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/metadata"

	"github.com/keymount/keymount/pkg/provider"
)

// The metadata keys; the package documentation says what they mean.
const (
	metaClass        = "keymount-class"
	metaLeaseID      = "keymount-lease-id-bin"
	metaLeaseExpires = "keymount-lease-expires"
	metaRefresh      = "keymount-refresh"
	metaExpires      = "keymount-expires"
	metaEmpty        = "keymount-empty"
	metaFacts        = "keymount-facts-bin"
	metaWarnings     = "keymount-warnings-bin"

	metaMissingAudience = "keymount-missing-audience-bin"
	metaMissingFacts    = "keymount-missing-facts-bin"
)

// maxLeaseID bounds what a provider may have the driver remember.
const maxLeaseID = 4096

// requestMetadata returns the key-value pairs for a Mount call.
func requestMetadata(req *provider.Request) ([]string, error) {
	pairs := encodeLease(req.Held.Lease)
	if !strings.ContainsFunc(req.Class, unprintable) { // gRPC would fail the call
		pairs = append(pairs, metaClass, req.Class)
	}
	if len(req.Facts) == 0 {
		return pairs, nil
	}
	if err := req.Facts.Validate(); err != nil {
		return nil, err
	}
	text, err := json.Marshal(req.Facts)
	return append(pairs, metaFacts, string(text)), err
}

// decodeFacts reads a JSON object of facts; nothing means that there are none.
func decodeFacts(md metadata.MD) (provider.Facts, error) {
	text := first(md, metaFacts)
	if text == "" {
		return nil, nil
	}
	told, err := decodeStrings("metadata "+metaFacts, text)
	if err != nil || len(told) == 0 {
		return nil, err
	}
	facts := make(provider.Facts, len(told))
	for fact, text := range told {
		facts[provider.Fact(fact)] = text
	}
	if err := facts.Validate(); err != nil {
		return nil, fmt.Errorf("metadata %s: %w", metaFacts, err)
	}
	return facts, nil
}

// replyMetadata returns the headers for the reply to a Mount call.
func replyMetadata(bundle *provider.Bundle) ([]string, error) {
	pairs := encodeLease(bundle.Lease)
	if !bundle.Refresh.IsZero() {
		pairs = append(pairs, metaRefresh, encodeTime(bundle.Refresh))
	}
	if !bundle.Expires.IsZero() {
		pairs = append(pairs, metaExpires, encodeTime(bundle.Expires))
	}
	if len(bundle.Files) == 0 && !bundle.Unchanged {
		pairs = append(pairs, metaEmpty, "true")
	}
	if len(bundle.Warnings) == 0 {
		return pairs, nil
	}
	text, err := json.Marshal(bundle.Warnings)
	return append(pairs, metaWarnings, string(text)), err
}

func unprintable(r rune) bool { return r < ' ' || r > '~' }

func encodeLease(lease provider.Lease) []string {
	var pairs []string
	if lease.ID != "" {
		pairs = append(pairs, metaLeaseID, lease.ID)
	}
	if !lease.Expires.IsZero() {
		pairs = append(pairs, metaLeaseExpires, encodeTime(lease.Expires))
	}
	return pairs
}

func decodeLease(md metadata.MD) (provider.Lease, error) {
	id := first(md, metaLeaseID)
	if len(id) > maxLeaseID {
		return provider.Lease{}, fmt.Errorf("metadata %s has %d bytes: want at most %d", metaLeaseID, len(id), maxLeaseID)
	}
	expires, err := decodeTime(md, metaLeaseExpires)
	return provider.Lease{ID: id, Expires: expires}, err
}

func encodeTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }

func decodeTime(md metadata.MD, key string) (time.Time, error) {
	text := first(md, key)
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("metadata %s is %.40q: want an RFC 3339 time", key, text)
	}
	return t.UTC(), nil
}

// first returns the first value of a key, or "".
func first(md metadata.MD, key string) string {
	if values := md.Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}
