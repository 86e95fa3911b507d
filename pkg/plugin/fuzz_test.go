package plugin

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// FuzzReply gives arbitrary bytes as a provider's reply: either nothing of it
// is used, or all that is used is valid.
func FuzzReply(f *testing.F) {
	versions := []*v1alpha1.ObjectVersion{{Id: "a", Version: "1"}}
	for _, reply := range []*v1alpha1.MountResponse{
		{},
		{ObjectVersion: versions},
		{ObjectVersion: []*v1alpha1.ObjectVersion{{}}},
		{ObjectVersion: versions, Files: []*v1alpha1.File{{Path: "a/b", Mode: 0o400, Contents: []byte("\x00\xff")}, {Path: "c"}}},
		{ObjectVersion: versions, Files: []*v1alpha1.File{{Path: "."}}},
		{ObjectVersion: versions, Files: []*v1alpha1.File{{Path: "a/../../b"}}},
		{ObjectVersion: versions, Files: []*v1alpha1.File{{Path: "a", Mode: -1}}},
		{ObjectVersion: versions, Files: []*v1alpha1.File{{Path: "a", Mode: 0o1000}}},
		{ObjectVersion: versions, Files: []*v1alpha1.File{{Path: "a"}, {Path: "a/b"}}},
		{Error: &v1alpha1.Error{Code: "code"}},
	} {
		wire, err := proto.Marshal(reply)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(wire, "", "", "")
		f.Add(wire, "2030-01-01T00:00:00.5Z", "true", `[{"reason":"Expired","message":"a <b>"}]`)
	}
	f.Add([]byte("\x0a\x02\x0a\x00"), "+0", "", "null")
	for _, warnings := range []string{"[]", "{}", "[null]", "[{}]", `[{"reason":"Other","message":"a"}]`, `[{"reason":"Expired","message":"\ud800\n"}]`, `[] []`} {
		f.Add([]byte("\x0a\x06\x0a\x01a\x12\x011"), "", "", warnings)
	}
	f.Fuzz(func(t *testing.T, wire []byte, refresh, empty, warnings string) {
		var reply v1alpha1.MountResponse
		if proto.Unmarshal(wire, &reply) != nil {
			return
		}
		md := metadata.Pairs(metaRefresh, refresh, metaEmpty, empty, metaLeaseID, refresh, metaWarnings, warnings)
		bundle, err := decodeReply(&reply, md, 0o640)
		if err != nil {
			return
		}
		if err := bundle.Validate(); err != nil {
			t.Errorf("decodeReply accepted a bundle with: %v", err)
		}
		for _, file := range bundle.Files {
			if file.Mode == 0 {
				t.Errorf("file %q has no mode", file.Path)
			}
		}
		pairs, err := replyMetadata(bundle)
		if err != nil {
			t.Fatalf("what was accepted cannot be sent on: %v", err)
		}
		sent, err := proto.Marshal(encodeReply(bundle, 0o640))
		var received v1alpha1.MountResponse
		if err = errors.Join(err, proto.Unmarshal(sent, &received)); err != nil {
			t.Fatalf("what was accepted cannot be sent on: %v", err)
		}
		again, err := decodeReply(&received, metadata.Pairs(pairs...), 0o640)
		if diff := cmp.Diff(bundle, again, cmp.Comparer(secret.Value.Equal)); err != nil || diff != "" {
			t.Errorf("the bundle changes when it is sent on: %v\n%s", err, diff)
		}
	})
}

// FuzzAttributes gives arbitrary text as a driver's attributes and secrets:
// it is refused without showing it, or it means the same when sent on.
func FuzzAttributes(f *testing.F) {
	f.Add(`{}`, `null`)
	f.Add(`null`, `{}`)
	f.Add(``, ``)
	f.Add(`[]`, `{"a":1}`)
	f.Add(`{"a":"b","secretProviderClass":"c"}`, `{"user":"name"}`)
	f.Add(`{"csi.storage.k8s.io/pod.name":"p","csi.storage.k8s.io/pod.namespace":"n","csi.storage.k8s.io/pod.uid":"u"}`, `{"":""}`)
	f.Add(`{"csi.storage.k8s.io/serviceAccount.tokens":"{\"a\":{\"token\":\"t\",\"expirationTimestamp\":\"2030-01-01T00:00:00Z\"}}"}`, ``)
	f.Add(`{"csi.storage.k8s.io/serviceAccount.tokens":"{\"a\":{\"expirationTimestamp\":\"9999-12-31T23:59:59.9-23:59\"}}"}`, ``)
	f.Add(`{"csi.storage.k8s.io/serviceAccount.tokens":"null"}`, `{"a":"\ud800"}`)
	f.Fuzz(func(t *testing.T, attributes, secrets string) {
		req, err := decodeRequest(&v1alpha1.MountRequest{Attributes: attributes, Secrets: secrets}, nil)
		if err != nil {
			checkRefusal(t, err, attributes)
			return
		}
		message, err := encodeRequest(req, false)
		if err != nil {
			return // a time that has no RFC 3339 form in UTC
		}
		again, err := decodeRequest(message, sent(t, req))
		if err != nil {
			t.Fatalf("what was accepted is refused when sent on: %v", err)
		}
		again.Class = req.Class // may be unprintable
		for audience, token := range req.Tokens {
			if token.Expires.Sub(again.Tokens[audience].Expires).Abs() >= 1e9 {
				t.Errorf("the token for %q expires at %v, then at %v", audience, token.Expires, again.Tokens[audience].Expires)
			}
			token.Expires = again.Tokens[audience].Expires
			req.Tokens[audience] = token
		}
		if diff := cmp.Diff(req, again, cmp.Comparer(secret.Value.Equal)); diff != "" {
			t.Errorf("the request changes when it is sent on:\n%s", diff)
		}
	})
}

// sent returns the metadata of a request that must be one that can be sent.
func sent(t *testing.T, req *provider.Request) metadata.MD {
	t.Helper()
	pairs, err := requestMetadata(req)
	if err != nil {
		t.Fatalf("what was accepted cannot be sent on: %v", err)
	}
	return metadata.Pairs(pairs...)
}

// FuzzFacts gives arbitrary bytes as a driver's facts, and as what a provider
// says that it misses: nothing is used of them, or they are valid and mean the
// same when sent on.
func FuzzFacts(f *testing.F) {
	for _, text := range []string{
		``, `null`, `{}`, `[]`, `{"node/a":null}`, `{"node/a":1}`, `{"node/a b":"c"}`, `{"pod/a":"b"}`, `{"node/":""}`, `{"node/a":"\ud800"}`, `["node/a b"]`, `[null]`,
		`{"serviceaccount/eks.amazonaws.com/role-arn":"arn:aws:iam::1:role/a","node/topology.kubernetes.io/region":""}`,
		`["serviceaccount/eks.amazonaws.com/role-arn","node/topology.kubernetes.io/region","node/topology.kubernetes.io/region"]`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		checkFacts(t, text)
		req := &provider.Request{}
		refused := &Error{Code: codes.InvalidArgument}
		var told *provider.MissingFactsError
		if !errors.As(withMissing(req, refused, metadata.Pairs(metaMissingFacts, text)), &told) {
			return
		}
		var again *provider.MissingFactsError
		if err := told.Validate(); err != nil || !errors.As(withMissing(req, &Error{Code: codes.InvalidArgument}, missing(req, refused)), &again) || !cmp.Equal(told, again) {
			t.Errorf("%q are missing, %v; sent on they are %v", told.Facts, err, again)
		}
	})
}

// checkFacts reads the text as the facts of a request.
func checkFacts(t *testing.T, text string) {
	facts, err := decodeFacts(metadata.Pairs(metaFacts, text))
	if err != nil {
		if !errors.Is(err, provider.ErrInvalid) {
			t.Errorf("the refusal %v is not %v", err, provider.ErrInvalid)
		}
		return
	}
	if err := facts.Validate(); err != nil {
		t.Errorf("decodeFacts accepted %q: %v", facts, err)
	}
	if again, err := decodeFacts(sent(t, &provider.Request{Facts: facts})); err != nil || !cmp.Equal(facts, again) {
		t.Errorf("the facts %q are %q, %v when they are sent on", facts, again, err)
	}
}

// checkRefusal reports a refusal that shows a value of the attributes.
func checkRefusal(t *testing.T, err error, attributes string) {
	if !errors.Is(err, provider.ErrInvalid) {
		t.Errorf("the refusal %v is not %v", err, provider.ErrInvalid)
	}
	var decoded map[string]any
	if json.Unmarshal([]byte(attributes), &decoded) != nil {
		return
	}
	const fixed = "attributes: want a JSON object of audiences, each with token and expirationTimestamp: the value of is not a string: permission: metadata csi.storage.k8s.io/serviceAccount.tokens secrets invalid"
	for key, value := range decoded {
		text, ok := value.(string)
		if ok && len(text) > 8 && strings.Contains(err.Error(), text) && !strings.Contains(fixed, text) && !strings.Contains(key, text) {
			t.Errorf("the refusal %q shows the value of %q", err, key)
		}
	}
}
