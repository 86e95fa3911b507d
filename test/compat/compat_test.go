package compat

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	mountMethod   = "/v1alpha1.CSIDriverProvider/Mount"
	versionMethod = "/v1alpha1.CSIDriverProvider/Version"
	changesMethod = "/keymount.v1.Notifier/Changes"
	releaseMethod = "/keymount.v1.Releaser/Release"
)

var values = cmp.Comparer(secret.Value.Equal)

// full is a request with all that a volume can have.
func full() *provider.Request {
	return &provider.Request{
		Class:      "ns/class",
		Parameters: map[string]string{"objects": "- name: \"a\" <&>\n", "secretProviderClass": "class", "csi.storage.k8s.io/ephemeral": "true"},
		Pod:        provider.Pod{Namespace: "ns", Name: "pod", UID: "uid", ServiceAccount: "account"},
		Tokens: provider.Tokens{
			"":      {Value: secret.New([]byte("token-1")), Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)},
			"vault": {Value: secret.New([]byte("token-2")), Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)},
		},
		Credentials: map[string]secret.Value{"password": secret.New([]byte("pass\nword")), "user": secret.New([]byte("name"))},
		Held: provider.Held{
			Versions: provider.Versions{"b": "2", "a": "1"},
			Lease:    provider.Lease{ID: "lease/1", Expires: time.Date(2030, 1, 1, 0, 0, 0, 5, time.UTC)},
		},
		Mode: 0o644,
		Dir:  "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/secrets/mount",
	}
}

// plain is a request of a pod without tokens and credentials.
func plain() *provider.Request {
	req := full()
	req.Tokens, req.Credentials, req.Held, req.Mode = nil, nil, provider.Held{}, 0o400
	return req
}

// listen listens as the provider "test".
func listen(t *testing.T) (dir string, lis net.Listener) {
	t.Helper()
	dir, err := os.MkdirTemp("", "km") // t.TempDir may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	lis, err = net.Listen("unix", filepath.Join(dir, "test.sock"))
	if err != nil {
		t.Fatal(err)
	}
	return dir, lis
}

// connect returns the provider in dir, as the driver sees it.
func connect(t *testing.T, dir string, opts *plugin.Options) provider.Provider {
	t.Helper()
	d := plugin.NewDir([]string{dir}, opts)
	t.Cleanup(func() { _ = d.Close() })
	p, err := d.Lookup("test")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// serve serves p until the test ends, and returns the socket.
func serve(t *testing.T, p provider.Provider) string {
	t.Helper()
	_, lis := listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- plugin.Serve(ctx, lis, p, &plugin.ServeOptions{RuntimeName: "test", Version: "1.2.3"}) }()
	t.Cleanup(func() {
		cancel()
		if err := receive(t, done); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return lis.Addr().String()
}

// fake is a Provider that gives one bundle and keeps what it was asked.
type fake struct {
	bundle  *provider.Bundle
	got     *provider.Request
	release chan string
}

func (f *fake) Fetch(_ context.Context, req *provider.Request) (*provider.Bundle, error) {
	f.got = req
	return f.bundle, nil
}

func (f *fake) Changes(ctx context.Context, changed func(string)) error {
	changed("a")
	<-ctx.Done()
	return ctx.Err()
}

func (f *fake) Release(_ context.Context, lease provider.Lease) error {
	f.release <- lease.ID
	return nil
}

// version is an encoded ObjectVersion.
func version(id, v string) []byte { return join(str(1, id), str(2, v)) }

func TestTheDriversMountRequest(t *testing.T) {
	for name, test := range map[string]struct {
		req  *provider.Request
		opts *plugin.Options
	}{
		"mount-request-full":     {full(), nil},
		"mount-request-plain":    {plain(), nil},
		"mount-request-withheld": {full(), &plugin.Options{WithholdVersions: true}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, lis := listen(t)
			server := &rawServer{replies: map[string][]byte{mountMethod: str(1, version("a", "1"))}}
			server.serve(t, lis)
			if _, err := connect(t, dir, test.opts).Fetch(t.Context(), test.req); err != nil {
				t.Fatal(err)
			}
			asked := receive(t, server.calls)
			if asked.method != mountMethod {
				t.Errorf("the driver called %s, want %s", asked.method, mountMethod)
			}
			golden(t, name, mountRequest, asked.wire, asked.md)
		})
	}
}

func TestTheDriversOtherRequests(t *testing.T) {
	dir, lis := listen(t)
	server := &rawServer{replies: map[string][]byte{changesMethod: str(1, "object")}}
	server.serve(t, lis)
	p := connect(t, dir, nil)

	d := plugin.NewDir([]string{dir}, nil)
	defer d.Close()
	if err := d.Check(t.Context(), "test"); err != nil {
		t.Error(err)
	}
	if err := p.(provider.Releaser).Release(t.Context(), provider.Lease{ID: "lease/1"}); err != nil {
		t.Error(err)
	}
	var heard []string
	if err := p.(provider.Notifier).Changes(t.Context(), func(id string) { heard = append(heard, id) }); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("Changes = %v, want %v when the provider ends the stream", err, provider.ErrUnavailable)
	}
	if diff := cmp.Diff([]string{"object"}, heard); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	for _, want := range []struct {
		method, golden string
		message        message
	}{
		{versionMethod, "version-request", versionRequest},
		{releaseMethod, "release-request", releaseRequest},
		{changesMethod, "changes-request", empty},
	} {
		asked := receive(t, server.calls)
		if asked.method != want.method {
			t.Errorf("the driver called %s, want %s", asked.method, want.method)
		}
		golden(t, want.golden, want.message, asked.wire, asked.md)
	}
}

func TestAForeignProvidersReplies(t *testing.T) {
	one := str(1, version("object", "1"))
	for name, test := range map[string]struct {
		wire   []byte
		header metadata.MD
		want   *provider.Bundle
		err    string
	}{
		"files": {
			wire: join(one, str(3, join(str(1, "dir/a"), num(2, 0o400), str(3, "A\x00"))), str(3, str(1, "b"))),
			want: &provider.Bundle{Versions: provider.Versions{"object": "1"}, Files: []provider.File{
				{Path: "dir/a", Mode: 0o400, Data: secret.New([]byte("A\x00"))}, {Path: "b", Mode: 0o644},
			}},
		},
		"no files: the provider wrote them": {
			wire: one,
			want: &provider.Bundle{Versions: provider.Versions{"object": "1"}, Unchanged: true},
		},
		"fields of a later protocol are skipped": {
			wire: join(one, str(99, "later"), num(100, 1)),
			want: &provider.Bundle{Versions: provider.Versions{"object": "1"}, Unchanged: true},
		},
		"a lease, a refresh and a warning": {
			wire: one,
			header: metadata.Pairs("keymount-lease-id-bin", "lease/1", "keymount-lease-expires", "2030-01-01T00:00:00.000000005Z",
				"keymount-refresh", "2029-01-01T00:00:00Z", "keymount-expires", "2029-06-01T00:00:00Z", "keymount-warnings-bin", `[{"reason":"Expired","message":"a has expired"}]`),
			want: &provider.Bundle{Versions: provider.Versions{"object": "1"}, Unchanged: true,
				Warnings: []provider.Warning{{Reason: provider.Expired, Message: "a has expired"}},
				Lease:    provider.Lease{ID: "lease/1", Expires: time.Date(2030, 1, 1, 0, 0, 0, 5, time.UTC)},
				Refresh:  time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC), Expires: time.Date(2029, 6, 1, 0, 0, 0, 0, time.UTC)},
		},
		"an error code":  {wire: join(one, str(2, str(1, "Throttled"))), err: "error code Throttled"},
		"no versions":    {wire: str(3, str(1, "b")), err: "missing object versions"},
		"not a message":  {wire: []byte("\xff\xff"), err: "ns/class"},
		"a mode below 0": {wire: join(one, str(3, join(str(1, "b"), num(2, -1)))), err: "mode -1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, lis := listen(t)
			server := &rawServer{replies: map[string][]byte{mountMethod: test.wire}, header: test.header}
			server.serve(t, lis)
			got, err := connect(t, dir, nil).Fetch(t.Context(), full())
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("Fetch = %v, want %s", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, values); diff != "" {
				t.Errorf("bundle (-want +got):\n%s", diff)
			}
		})
	}
}

func TestOurProvidersReplies(t *testing.T) {
	lease := provider.Lease{ID: "lease/1", Expires: time.Date(2030, 1, 1, 0, 0, 0, 5, time.UTC)}
	held := provider.Versions{"a": "1"}
	for name, bundle := range map[string]*provider.Bundle{
		"mount-response-full": {
			Files: []provider.File{
				{Path: "dir/a", Mode: 0o400, Data: secret.New([]byte("A\x00\xff\n"))},
				{Path: "b", Data: secret.New([]byte("B"))},
			},
			Versions: provider.Versions{"b": "2", "a": "1"},
			Lease:    lease,
			Refresh:  time.Date(2029, 1, 1, 0, 0, 0, 0, time.UTC),
			Expires:  time.Date(2029, 6, 1, 0, 0, 0, 0, time.UTC),
			Warnings: []provider.Warning{{Reason: provider.Expired, Message: "a has expired"}},
		},
		"mount-response-unchanged": {Versions: held, Unchanged: true},
		"mount-response-empty":     {Versions: held},
	} {
		t.Run(name, func(t *testing.T) {
			socket := serve(t, &fake{bundle: bundle})
			wire, header, err := ask(t, socket, mountMethod, nil, join(str(1, "{}"), str(2, "null"), str(4, "420"), str(5, version("a", "1"))))
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name, mountResponse, wire, header)
		})
	}
}

func TestOurProvidersOtherReplies(t *testing.T) {
	p := &fake{release: make(chan string, 1)}
	socket := serve(t, p)
	for _, test := range []struct {
		method, golden string
		wire           []byte
		message        message
	}{
		{versionMethod, "version-response", str(1, "v1alpha1"), versionResponse},
		{changesMethod, "change", nil, change},
		{releaseMethod, "release-response", str(1, "lease/1"), empty},
	} {
		wire, header, err := ask(t, socket, test.method, nil, test.wire)
		if err != nil {
			t.Fatalf("%s: %v", test.method, err)
		}
		golden(t, test.golden, test.message, wire, header)
	}
	if got := receive(t, p.release); got != "lease/1" {
		t.Errorf("released %q, want lease/1", got)
	}
}

func TestAForeignDriversRequest(t *testing.T) {
	p := &fake{bundle: &provider.Bundle{Versions: provider.Versions{"a": "1"}}}
	socket := serve(t, p)
	attributes := `{"csi.storage.k8s.io/ephemeral":"true","csi.storage.k8s.io/pod.name":"pod","csi.storage.k8s.io/pod.namespace":"ns",` +
		`"csi.storage.k8s.io/pod.uid":"uid","csi.storage.k8s.io/serviceAccount.name":"account",` +
		`"csi.storage.k8s.io/serviceAccount.tokens":"{\"\":{\"token\":\"token-1\",\"expirationTimestamp\":\"2030-01-02T03:04:05Z\"},` +
		`\"vault\":{\"token\":\"token-2\",\"expirationTimestamp\":\"2030-01-02T03:04:05Z\"}}",` +
		`"objects":"- name: \"a\" \u003c\u0026\u003e\n","secretProviderClass":"class"}`
	_, _, err := ask(t, socket, mountMethod, nil, join(
		str(1, attributes), str(2, `{"password":"pass\nword","user":"name"}`), str(3, full().Dir), str(4, "420")))
	if err != nil {
		t.Fatal(err)
	}
	want := full()
	want.Held = provider.Held{}
	if diff := cmp.Diff(want, p.got, values); diff != "" {
		t.Errorf("request (-want +got):\n%s", diff)
	}
}

func TestTheDefaultLimitOfAReplyIs4MiB(t *testing.T) {
	one := str(1, version("object", "1"))
	padding := 4<<20 - len(one) - 5 // tag and length of an unknown field
	for _, excess := range []int{0, 1} {
		dir, lis := listen(t)
		server := &rawServer{replies: map[string][]byte{mountMethod: join(one, str(15, make([]byte, padding+excess)))}}
		server.serve(t, lis)
		_, err := connect(t, dir, nil).Fetch(t.Context(), full())
		if refused := err != nil && strings.Contains(err.Error(), "--max-call-recv-msg-size"); refused != (excess > 0) {
			t.Errorf("a reply of %d bytes: %v", 4<<20+excess, err)
		}
	}
}

func TestAPeerWithoutTheOptionalServicesAnswersUnimplemented(t *testing.T) {
	_, _, err := ask(t, serve(t, onlyFetch{}), changesMethod, nil, nil)
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("Changes = %v, want Unimplemented", err)
	}
}

// onlyFetch is a Provider and nothing else.
type onlyFetch struct{}

func (onlyFetch) Fetch(context.Context, *provider.Request) (*provider.Bundle, error) {
	return nil, provider.ErrNotFound
}
