package plugin

import (
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// FuzzClean gives arbitrary text as what a peer says that has a secret: what is
// printed of it is one short line without the secret.
func FuzzClean(f *testing.F) {
	f.Add("the token is canary-token", "canary-token")
	f.Add("line\nbreak\x00and \x1b[31m colour", "break and")
	f.Add("header.payload-of-a-token.signature", "header.payload-of-a-token.signature")
	f.Add(strings.Repeat("é", maxMessage), "é")
	f.Add("\xff\xfe", "\xff")
	f.Add("Y2FuYXJ5 63616e617279 canary", "canary")
	f.Fuzz(func(t *testing.T, text, hidden string) {
		out := clean(text, []secret.Value{secret.New([]byte(hidden))})
		if len(out) > maxMessage+len("... (9223372036854775807 more bytes)") || !utf8.ValidString(out) || strings.ContainsFunc(out, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("it is printed as %d bytes: %q", len(out), out)
		}
		said, _, _ := strings.Cut(out, "... (")
		said = strings.ReplaceAll(said, secret.Mask, "")
		if len(hidden) >= 4 && !strings.ContainsAny(hidden, "[].") && strings.Contains(said, hidden) {
			t.Errorf("the secret %q is in %q", hidden, out)
		}
	})
}

// FuzzRequest gives arbitrary bytes as a driver's request: it is refused, or it
// means the same when sent on.
func FuzzRequest(f *testing.F) {
	for _, message := range []*v1alpha1.MountRequest{
		{},
		{Attributes: "{}", Secrets: "null", Permission: "420", TargetPath: "/x", CurrentObjectVersion: []*v1alpha1.ObjectVersion{{Id: "a", Version: "1"}, {Id: "a", Version: "2"}}},
		{Attributes: "{}", Permission: "512"},
		{Attributes: "{}", Permission: "-1"},
		{Attributes: "{}", CurrentObjectVersion: []*v1alpha1.ObjectVersion{{}, {Id: "b"}}},
	} {
		wire, err := proto.Marshal(message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, "", "", "")
		f.Add(wire, "lease", "2030-01-01T00:00:00.5+01:00", "shop/app")
		f.Add(wire, strings.Repeat("l", maxLeaseID+1), "tomorrow", "\x00")
	}
	f.Fuzz(func(t *testing.T, wire []byte, lease, expires, class string) {
		var message v1alpha1.MountRequest
		if proto.Unmarshal(wire, &message) != nil {
			return
		}
		req, err := decodeRequest(&message, metadata.Pairs(metaLeaseID, lease, metaLeaseExpires, expires, metaClass, class))
		if err != nil {
			if !errors.Is(err, provider.ErrInvalid) {
				t.Errorf("the refusal %v is not %v", err, provider.ErrInvalid)
			}
			return
		}
		if req.Mode&^0o777 != 0 || len(req.Held.Lease.ID) > maxLeaseID {
			t.Errorf("mode %v, lease of %d bytes", req.Mode, len(req.Held.Lease.ID))
		}
		onward, err := encodeRequest(req, false)
		if err != nil {
			return // a time of a token that has no RFC 3339 form in UTC
		}
		again, err := decodeRequest(onward, sent(t, req))
		if err != nil {
			t.Fatalf("what was accepted is refused when sent on: %v", err)
		}
		for id, version := range req.Held.Versions {
			if version != again.Held.Versions[id] {
				t.Errorf("the version of %q is %q, and %q when it is sent on", id, version, again.Held.Versions[id])
			}
		}
		if req.Mode != again.Mode || req.Dir != again.Dir || !cmp.Equal(req.Held.Lease, again.Held.Lease) {
			t.Errorf("the request changes when it is sent on: %+v, %+v", req, again)
		}
	})
}

// FuzzAudience gives arbitrary text as the audience of the token that a
// provider misses: nothing comes of it, or it is one line that can be asked for.
func FuzzAudience(f *testing.F) {
	for _, audience := range []string{"", "sts.amazonaws.com", "api://AzureADTokenExchange", "a b", " a", "a\nb", "\x00", "\xff", strings.Repeat("a", 2*maxMessage), "canary-token"} {
		f.Add(audience)
	}
	req := &provider.Request{Credentials: map[string]secret.Value{"password": secret.New([]byte("canary-token"))}}
	f.Fuzz(func(t *testing.T, audience string) {
		refused := &Error{Code: codes.PermissionDenied}
		var told, again *provider.MissingTokenError
		if !errors.As(withMissing(req, refused, metadata.Pairs(metaMissingAudience, audience)), &told) {
			return
		}
		if told.Audience != audience || len(audience) > maxMessage || strings.ContainsAny(audience, "\n\r\x00") || strings.Contains(audience, "canary-token") {
			t.Errorf("a token of %q is missing, of %q", told.Audience, audience)
		}
		if !errors.As(withMissing(req, &Error{Code: codes.PermissionDenied}, missing(req, refused)), &again) || again.Audience != audience {
			t.Errorf("a token of %q is missing; sent on it is %v", audience, again)
		}
	})
}
