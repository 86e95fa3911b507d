package plugin_test

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// fullRequest returns a request with a value in each field.
func fullRequest() *provider.Request {
	return &provider.Request{
		Class:      "ns/class",
		Parameters: map[string]string{"objects": "- <a> & \"b\"\n", "secretProviderClass": "class"},
		Pod:        provider.Pod{Namespace: "ns", Name: "pod", UID: "uid", ServiceAccount: "account"},
		Tokens: provider.Tokens{
			"":      {Value: secret.New([]byte("token-1")), Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)},
			"vault": {Value: secret.New([]byte("token-2"))},
		},
		Credentials: map[string]secret.Value{"user": secret.New([]byte("näme\x00")), "empty": secret.New(nil)},
		Facts: provider.Facts{
			provider.ServiceAccountAnnotation("example.com/note"): "ünï \"a\"\n<b>\x00",
			provider.NodeLabel("topology.kubernetes.io/region"):   "",
		},
		Held: provider.Held{
			Versions: provider.Versions{"b": "2", "a": "1"},
			Lease:    provider.Lease{ID: "lease/\x00\xff", Expires: time.Date(2030, 1, 2, 3, 4, 5, 6, time.UTC)},
		},
		Mode: 0o640,
		Dir:  "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/v/mount",
	}
}

func TestNothingOfARequestOrABundleIsLostBetweenTwoEnds(t *testing.T) {
	full := &provider.Bundle{
		Files: []provider.File{
			{Path: "dir/a", Mode: 0o400, Data: secret.New([]byte("\x00\xff\n"))},
			{Path: "b", Mode: 0o777, Data: secret.New(nil)},
		},
		Versions: provider.Versions{"a": "1", "b": ""},
		Lease:    provider.Lease{ID: "ünï\n", Expires: time.Date(2031, 1, 1, 0, 0, 0, 1, time.UTC)},
		Refresh:  time.Date(2029, 1, 1, 0, 0, 0, 123456789, time.UTC),
		Expires:  time.Date(2029, 6, 1, 0, 0, 0, 0, time.UTC),
		Warnings: []provider.Warning{{Reason: provider.Expired, Message: `ünï <a> & "b" \ has expired`}, {Reason: provider.Expired, Message: "c"}},
	}
	for name, bundle := range map[string]*provider.Bundle{
		"a full bundle":           full,
		"an unchanged bundle":     {Versions: provider.Versions{"a": "1", "b": "2"}, Unchanged: true, Lease: full.Lease, Refresh: full.Refresh, Warnings: full.Warnings},
		"a bundle without files":  {Versions: provider.Versions{"a": "3"}},
		"a lease without a name":  {Versions: provider.Versions{"a": "3"}, Lease: provider.Lease{Expires: full.Lease.Expires}},
		"a lease without an end":  {Versions: provider.Versions{"a": "3"}, Lease: provider.Lease{ID: "id"}},
		"a time in its own place": {Versions: provider.Versions{"a": "3"}, Refresh: time.Date(2029, 1, 1, 0, 0, 0, 0, time.FixedZone("", 3600))},
	} {
		t.Run(name, func(t *testing.T) {
			var got *provider.Request
			dir := shortDir(t)
			serve(t, listen(t, dir), fetch(func(_ context.Context, req *provider.Request) (*provider.Bundle, error) {
				got = req
				return bundle, nil
			}), nil)
			req := fullRequest()
			reply, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(fullRequest(), got, values); diff != "" {
				t.Errorf("the request changed on its way (-sent +received):\n%s", diff)
			}
			if diff := cmp.Diff(bundle, reply, values); diff != "" {
				t.Errorf("the bundle changed on its way (-sent +received):\n%s", diff)
			}
			if diff := cmp.Diff(fullRequest(), req, values); diff != "" {
				t.Errorf("Fetch modified the request (-before +after):\n%s", diff)
			}
		})
	}
}

func TestHeldVersionsAreSentInOrderUnlessUnknownOrWithheld(t *testing.T) {
	held := provider.Versions{"c": "3", "a": "1", "unknown": "", "b": "2"}
	for name, test := range map[string]struct {
		opts *plugin.Options
		want string
	}{
		"sent":     {nil, "a=1 b=2 c=3"},
		"withheld": {&plugin.Options{WithholdVersions: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			dir := shortDir(t)
			serveForeign(t, listen(t, dir), foreign{mount: func(_ context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
				for _, v := range req.GetCurrentObjectVersion() {
					got = append(got, v.GetId()+"="+v.GetVersion())
				}
				return &v1alpha1.MountResponse{ObjectVersion: []*v1alpha1.ObjectVersion{{Id: "a", Version: "1"}}}, nil
			}})
			req := fullRequest()
			req.Held.Versions = held
			if _, err := lookup(t, newDir(t, test.opts, dir)).Fetch(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(got, " "); got != test.want {
				t.Errorf("the provider got the versions %q, want %q", got, test.want)
			}
		})
	}
}

func TestWhatTheProtocolCannotCarryIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(*provider.Request){
		`the credential "key" is not text`: func(r *provider.Request) { r.Credentials["key"] = secret.New([]byte("\xff")) },
		`the token for audience "aud" is`:  func(r *provider.Request) { r.Tokens["aud"] = provider.Token{Value: secret.New([]byte("\xff"))} },
		`node/zone is no text of at most`:  func(r *provider.Request) { r.Facts[provider.NodeLabel("zone")] = "\xff" },
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			serve(t, listen(t, dir), says("unreached"), nil)
			req := fullRequest()
			spoil(req)
			_, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), req)
			if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), name) {
				t.Errorf("Fetch = %v, want %s", err, name)
			}
		})
	}
}

// versions is what a good reply has.
func versions() []*v1alpha1.ObjectVersion {
	return []*v1alpha1.ObjectVersion{{Id: "object", Version: "1"}}
}

func TestGoodReplies(t *testing.T) {
	one := provider.Versions{"object": "1"}
	for name, test := range map[string]struct {
		reply *v1alpha1.MountResponse
		want  *provider.Bundle
	}{
		"files keep their modes, and 0 is the request's": {
			&v1alpha1.MountResponse{ObjectVersion: versions(), Files: []*v1alpha1.File{
				{Path: "a", Mode: 0o400, Contents: []byte("A")}, {Path: "d/b", Mode: 0, Contents: []byte("B")},
			}},
			&provider.Bundle{Versions: one, Files: []provider.File{
				{Path: "a", Mode: 0o400, Data: secret.New([]byte("A"))}, {Path: "d/b", Mode: 0o640, Data: secret.New([]byte("B"))},
			}},
		},
		"no files mean that the provider wrote them": {
			&v1alpha1.MountResponse{ObjectVersion: versions()},
			&provider.Bundle{Versions: one, Unchanged: true},
		},
		"an empty error is no error": {
			&v1alpha1.MountResponse{ObjectVersion: versions(), Error: &v1alpha1.Error{}},
			&provider.Bundle{Versions: one, Unchanged: true},
		},
		"an empty version is unknown": {
			&v1alpha1.MountResponse{ObjectVersion: []*v1alpha1.ObjectVersion{{Id: "object"}}},
			&provider.Bundle{Versions: provider.Versions{"object": ""}, Unchanged: true},
		},
		"of a repeated object the last version counts": {
			&v1alpha1.MountResponse{ObjectVersion: []*v1alpha1.ObjectVersion{{Id: "object", Version: "0"}, {Id: "object", Version: "1"}}},
			&provider.Bundle{Versions: one, Unchanged: true},
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			serveForeign(t, listen(t, dir), replies(test.reply))
			got, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), fullRequest())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, values); diff != "" {
				t.Errorf("bundle (-want +got):\n%s", diff)
			}
		})
	}
}

func TestBadRepliesAreRefusedWhole(t *testing.T) {
	files := func(files ...*v1alpha1.File) *v1alpha1.MountResponse {
		return &v1alpha1.MountResponse{ObjectVersion: versions(), Files: files}
	}
	good := &v1alpha1.File{Path: "good", Contents: []byte("good")}
	for name, test := range map[string]struct {
		reply *v1alpha1.MountResponse
		want  string
	}{
		"nothing at all":           {&v1alpha1.MountResponse{}, "missing object versions"},
		"files without versions":   {&v1alpha1.MountResponse{Files: []*v1alpha1.File{good}}, "missing object versions"},
		"a version without an ID":  {&v1alpha1.MountResponse{ObjectVersion: []*v1alpha1.ObjectVersion{{Version: "1"}}}, "without an object ID"},
		"a negative mode":          {files(good, &v1alpha1.File{Path: "f", Mode: -1}), "mode -1"},
		"a mode with setuid":       {files(good, &v1alpha1.File{Path: "f", Mode: 0o4755}), "mode 2541"},
		"the path .":               {files(good, &v1alpha1.File{Path: "."}), `"."`}, // upstream's B8
		"the path ..":              {files(good, &v1alpha1.File{Path: ".."}), `".."`},
		"an empty path":            {files(good, &v1alpha1.File{}), `""`},
		"an absolute path":         {files(good, &v1alpha1.File{Path: "/etc/shadow"}), "/etc/shadow"},
		"a path that climbs":       {files(good, &v1alpha1.File{Path: "a/../../b"}), "a/../../b"},
		"the path of the layout":   {files(good, &v1alpha1.File{Path: "..data"}), "..data"},
		"a path with NUL":          {files(good, &v1alpha1.File{Path: "a\x00b"}), `a\x00b`},
		"a path that is too long":  {files(good, &v1alpha1.File{Path: strings.Repeat("a", 5000)}), "aaa"},
		"a path twice":             {files(good, good), `"good"`},
		"a file and its directory": {files(good, &v1alpha1.File{Path: "good/x"}), `"good"`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			serveForeign(t, listen(t, dir), replies(test.reply))
			bundle, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), fullRequest())
			if bundle != nil || !errors.Is(err, provider.ErrInvalid) {
				t.Fatalf("Fetch = %v, %v, want %v", bundle, err, provider.ErrInvalid)
			}
			for _, want := range []string{`provider "test": class ns/class: `, test.want} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Fetch: %q does not say %q", err, want)
				}
			}
			if len(err.Error()) > 1500 {
				t.Errorf("Fetch: an error of %d bytes", len(err.Error()))
			}
		})
	}
}

func TestMetadataOfReplies(t *testing.T) {
	expires := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		header, trailer metadata.MD
		want            provider.Bundle
		wantErr         string
	}{
		"headers": {
			header: metadata.Pairs("keymount-lease-id-bin", "id", "keymount-lease-expires", "2030-01-01T00:00:00Z", "keymount-refresh", "2030-01-01T01:00:00+01:00"),
			want:   provider.Bundle{Unchanged: true, Lease: provider.Lease{ID: "id", Expires: expires}, Refresh: expires},
		},
		"trailers": {
			trailer: metadata.Pairs("keymount-lease-id-bin", "id", "keymount-empty", "true"),
			want:    provider.Bundle{Lease: provider.Lease{ID: "id"}},
		},
		"no end of what is served": {header: metadata.Pairs("keymount-expires", "soon"), wantErr: `keymount-expires is "soon"`},
		"not a time":               {header: metadata.Pairs("keymount-refresh", "soon"), wantErr: `keymount-refresh is "soon"`},
		"not an end":               {header: metadata.Pairs("keymount-lease-expires", "never"), wantErr: `keymount-lease-expires is "never"`},
		"a huge lease ID":          {header: metadata.Pairs("keymount-lease-id-bin", strings.Repeat("x", 5000)), wantErr: "at most 4096"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			serveForeign(t, listen(t, dir), foreign{mount: func(ctx context.Context, _ *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
				return &v1alpha1.MountResponse{ObjectVersion: versions()}, errors.Join(grpc.SetHeader(ctx, test.header), grpc.SetTrailer(ctx, test.trailer))
			}})
			got, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), fullRequest())
			if test.wantErr != "" {
				if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), test.wantErr) {
					t.Errorf("Fetch = %v, want %s", err, test.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			test.want.Versions = provider.Versions{"object": "1"}
			if diff := cmp.Diff(&test.want, got, values); diff != "" {
				t.Errorf("bundle (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEachCodeOfAProviderIsKeptAndHasItsSentinel(t *testing.T) {
	sentinels := map[codes.Code]error{
		codes.InvalidArgument:    provider.ErrInvalid,
		codes.FailedPrecondition: provider.ErrInvalid,
		codes.OutOfRange:         provider.ErrInvalid,
		codes.Unimplemented:      provider.ErrInvalid,
		codes.NotFound:           provider.ErrNotFound,
		codes.PermissionDenied:   provider.ErrDenied,
		codes.Unauthenticated:    provider.ErrDenied,
	}
	for code := codes.Canceled; code <= codes.Unauthenticated+1; code++ { // one beyond the known ones
		t.Run(code.String(), func(t *testing.T) {
			want := sentinels[code]
			if want == nil {
				want = provider.ErrUnavailable
			}
			dir := shortDir(t)
			serveForeign(t, listen(t, dir), foreign{mount: func(context.Context, *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
				return nil, status.Error(code, "it said no")
			}})
			_, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), fullRequest())
			wrapped := fmt.Errorf("publish: %w", err)
			if !errors.Is(wrapped, want) || provider.Reason(wrapped) != provider.Reason(want) {
				t.Errorf("Fetch = %v, a reason %s, want %v", err, provider.Reason(err), want)
			}
			if got := status.Code(wrapped); got != code {
				t.Errorf("the code is %v, want %v", got, code)
			}
			if got, want := err.Error(), `provider "test": class ns/class: it said no`; got != want {
				t.Errorf("the message is %q, want %q", got, want)
			}
		})
	}
}

func TestAnErrorCodeInTheReplyIsAFailureThatCarriesIt(t *testing.T) {
	dir := shortDir(t)
	serveForeign(t, listen(t, dir), replies(&v1alpha1.MountResponse{ObjectVersion: versions(), Error: &v1alpha1.Error{Code: "Throttled"}}))
	_, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), fullRequest())
	var failure *plugin.Error
	if !errors.As(err, &failure) || failure.Label != "Throttled" || !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("Fetch = %#v, want the label Throttled and %v", err, provider.ErrUnavailable)
	}
	if got, want := err.Error(), `provider "test": class ns/class: it failed with its error code Throttled`; got != want {
		t.Errorf("the message is %q, want %q", got, want)
	}
}

func TestAReplyAboveTheLimitNamesTheFlag(t *testing.T) {
	dir := shortDir(t)
	serve(t, listen(t, dir), says(strings.Repeat("x", 5<<20)), nil)
	for name, test := range map[string]struct {
		opts *plugin.Options
		want string
	}{
		"the default":   {nil, "larger than 4194304 bytes"},
		"another limit": {&plugin.Options{MaxRecvMsgSize: 1000}, "larger than 1000 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := lookup(t, newDir(t, test.opts, dir)).Fetch(t.Context(), fullRequest())
			if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), "--max-call-recv-msg-size") {
				t.Errorf("Fetch = %v, want %s and --max-call-recv-msg-size", err, test.want)
			}
		})
	}
	p := lookup(t, newDir(t, &plugin.Options{MaxRecvMsgSize: 11 << 20}, dir))
	if got := len(content(t, p)); got != 5<<20 {
		t.Errorf("got %d bytes, want %d", got, 5<<20)
	}
}

func TestAProvidersQuotaIsNotMistakenForTheLimit(t *testing.T) {
	dir := shortDir(t)
	serveForeign(t, listen(t, dir), foreign{mount: func(context.Context, *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		return nil, status.Error(codes.ResourceExhausted, "slow down")
	}})
	_, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), fullRequest())
	if got, want := fmt.Sprint(err), `provider "test": class ns/class: slow down`; got != want {
		t.Errorf("Fetch = %q, want %q", got, want)
	}
}

func TestHostileMessagesAreMaskedAndBounded(t *testing.T) {
	token := canary() + "." + canary() + "." + canary()
	credential := "-----BEGIN KEY-----\n" + canary() + "\n" + canary() + "/+\xc3\xa4==\n-----END KEY-----\n"
	req := fullRequest()
	req.Tokens["aud"] = provider.Token{Value: secret.New([]byte(token))}
	req.Credentials["key"] = secret.New([]byte(credential))
	leaks := append(strings.Split(token, "."), strings.Split(credential, "\n")[1:3]...)

	for name, text := range map[string]string{
		"plain":       "token " + token + " key " + credential,
		"quoted":      fmt.Sprintf("token %q key %q", token, credential),
		"base64":      base64.StdEncoding.EncodeToString([]byte(token)) + " " + base64.URLEncoding.EncodeToString([]byte(credential)),
		"hex":         hex.EncodeToString([]byte(token)) + " " + strings.ToUpper(hex.EncodeToString([]byte(credential))),
		"in a URL":    "https://x/?t=" + url.QueryEscape(token) + "&k=" + url.PathEscape(credential),
		"in sections": "bad signature " + strings.Split(token, ".")[2] + " bad line " + strings.Split(credential, "\n")[2],
		"long":        strings.Repeat("x", 100_000) + token,
		"at the cut":  strings.Repeat("x", 1000) + token,
		"controls":    "a\x00b\x1b[31mc\r\nd\u202ee\xff" + token,
	} {
		t.Run(name, func(t *testing.T) {
			for where, p := range map[string]foreign{
				"as an error": {mount: func(context.Context, *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
					return nil, status.Error(codes.Internal, text)
				}},
				"as a code": replies(&v1alpha1.MountResponse{Error: &v1alpha1.Error{Code: strings.ToValidUTF8(text, "?")}}),
				"as a path": replies(&v1alpha1.MountResponse{ObjectVersion: versions(), Files: []*v1alpha1.File{{Path: "/" + strings.ToValidUTF8(text, "?")}}}),
			} {
				dir := shortDir(t)
				serveForeign(t, listen(t, dir), p)
				_, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), req)
				if err == nil {
					t.Fatalf("%s: Fetch succeeded", where)
				}
				said := fmt.Sprintf("%v %+v %#v %s", err, err, err, status.Convert(err).Message())
				for _, leak := range leaks {
					for _, form := range []string{leak, hex.EncodeToString([]byte(leak)), base64.RawStdEncoding.EncodeToString([]byte(leak))} {
						if strings.Contains(strings.ToLower(said), strings.ToLower(form)) {
							t.Errorf("%s: the error shows a secret: %.300s", where, said)
						}
					}
				}
				if len(err.Error()) > 1500 || strings.ContainsAny(err.Error(), "\x00\x1b\r\n\u202e") {
					t.Errorf("%s: the error has %d bytes or control characters: %.300q", where, len(err.Error()), err)
				}
			}
		})
	}
}

func TestTheProviderSeesTheAuthorityThatUpstreamSends(t *testing.T) {
	dir := shortDir(t)
	var got metadata.MD
	serveForeign(t, listen(t, dir), foreign{mount: func(ctx context.Context, _ *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		got, _ = metadata.FromIncomingContext(ctx)
		return &v1alpha1.MountResponse{ObjectVersion: versions()}, nil
	}})
	req := fullRequest()
	req.Class = "ns/ünprintable"
	if _, err := lookup(t, newDir(t, &plugin.Options{Version: "1.2.3"}, dir)).Fetch(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"localhost"}, got.Get(":authority")); diff != "" {
		t.Errorf(":authority (-want +got):\n%s", diff)
	}
	if agent := strings.Join(got.Get("user-agent"), ","); !strings.HasPrefix(agent, "keymount/1.2.3 ") {
		t.Errorf("user-agent = %q, want keymount/1.2.3", agent)
	}
	if class := got.Get("keymount-class"); class != nil {
		t.Errorf("keymount-class = %q, which gRPC cannot carry", class)
	}
}

func TestAForgedPodOrTokenIsReplaced(t *testing.T) {
	dir := shortDir(t)
	var got *provider.Request
	serve(t, listen(t, dir), fetch(func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
		got = req
		return says("x").Fetch(ctx, req)
	}), nil)
	pod := provider.Pod{Namespace: "ns", Name: "pod", UID: "uid"}
	_, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), &provider.Request{Mode: 0o644, Pod: pod, Parameters: map[string]string{
		"csi.storage.k8s.io/pod.name":              "forged",
		"csi.storage.k8s.io/pod.namespace":         "forged",
		"csi.storage.k8s.io/pod.uid":               "forged",
		"csi.storage.k8s.io/serviceAccount.name":   "forged",
		"csi.storage.k8s.io/serviceAccount.tokens": `{"aud":{"token":"forged"}}`,
		"csi.storage.k8s.io/ephemeral":             "true",
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := &provider.Request{Mode: 0o644, Pod: pod, Parameters: map[string]string{"csi.storage.k8s.io/ephemeral": "true"}}
	if diff := cmp.Diff(want, got, values); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestModesBeyondPermissionBitsAreNotSent(t *testing.T) {
	dir := shortDir(t)
	var got string
	serveForeign(t, listen(t, dir), foreign{mount: func(_ context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		got = req.GetPermission()
		return &v1alpha1.MountResponse{ObjectVersion: versions()}, nil
	}})
	req := fullRequest()
	req.Mode = fs.ModeSetuid | 0o644
	if _, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), req); err != nil || got != "420" {
		t.Errorf("Fetch = %v, the permission %q, want 420", err, got)
	}
}
