package plugin_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// driver returns a v1alpha1 client that is not ours, as upstream's driver has.
func driver(t testing.TB, lis net.Listener) v1alpha1.CSIDriverProviderClient {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return v1alpha1.NewCSIDriverProviderClient(conn)
}

// upstream is a request of upstream's driver.
func upstream() *v1alpha1.MountRequest {
	return &v1alpha1.MountRequest{
		Attributes: `{"csi.storage.k8s.io/ephemeral":"true","csi.storage.k8s.io/pod.name":"pod","csi.storage.k8s.io/pod.namespace":"ns",` +
			`"csi.storage.k8s.io/pod.uid":"uid","csi.storage.k8s.io/serviceAccount.name":"account",` +
			`"csi.storage.k8s.io/serviceAccount.tokens":"{\"aud\":{\"token\":\"the-token\",\"expirationTimestamp\":\"2030-01-02T03:04:05Z\"}}",` +
			`"objects":"- x","secretProviderClass":"class"}`,
		Secrets:    `{"user":"name"}`,
		TargetPath: "/target",
		Permission: "420",
	}
}

// decoded is what upstream() means.
func decoded() *provider.Request {
	return &provider.Request{
		Class:       "ns/class",
		Parameters:  map[string]string{"csi.storage.k8s.io/ephemeral": "true", "objects": "- x", "secretProviderClass": "class"},
		Pod:         provider.Pod{Namespace: "ns", Name: "pod", UID: "uid", ServiceAccount: "account"},
		Tokens:      provider.Tokens{"aud": {Value: secret.New([]byte("the-token")), Expires: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}},
		Credentials: map[string]secret.Value{"user": secret.New([]byte("name"))},
		Mode:        0o644,
		Dir:         "/target",
	}
}

func TestRequestsOfUpstreamsDriverAreUnderstood(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*v1alpha1.MountRequest, *provider.Request)
		fault  string // part of the message, where the request is refused
	}{
		"as it is":                       {func(*v1alpha1.MountRequest, *provider.Request) {}, ""},
		"null secrets":                   {func(m *v1alpha1.MountRequest, r *provider.Request) { m.Secrets, r.Credentials = "null", nil }, ""},
		"no secrets":                     {func(m *v1alpha1.MountRequest, r *provider.Request) { m.Secrets, r.Credentials = "", nil }, ""},
		"empty secrets":                  {func(m *v1alpha1.MountRequest, r *provider.Request) { m.Secrets, r.Credentials = "{}", nil }, ""},
		"no permission":                  {func(m *v1alpha1.MountRequest, _ *provider.Request) { m.Permission = "" }, ""},
		"another permission":             {func(m *v1alpha1.MountRequest, r *provider.Request) { m.Permission, r.Mode = "256", 0o400 }, ""},
		"no attributes":                  {func(m *v1alpha1.MountRequest, _ *provider.Request) { m.Attributes = "" }, "attributes: want a JSON object"},
		"null attributes":                {func(m *v1alpha1.MountRequest, _ *provider.Request) { m.Attributes = "null" }, "attributes: want a JSON object"},
		"attributes that are a list":     {func(m *v1alpha1.MountRequest, _ *provider.Request) { m.Attributes = `["zzz"]` }, "attributes: want a JSON object"},
		"an attribute that is no string": {func(m *v1alpha1.MountRequest, _ *provider.Request) { m.Attributes = `{"a":"zzz","b":7}` }, `the value of "b" is not a string`},
		"secrets that are not JSON":      {func(m *v1alpha1.MountRequest, _ *provider.Request) { m.Secrets = "zzz" }, "secrets: want a JSON object"},
		"a secret that is no string":     {func(m *v1alpha1.MountRequest, _ *provider.Request) { m.Secrets = `{"k":["zzz"]}` }, `the value of "k" is not a string`},
		"tokens that are not JSON": {func(m *v1alpha1.MountRequest, _ *provider.Request) {
			m.Attributes = `{"csi.storage.k8s.io/serviceAccount.tokens":"zzz"}`
		}, "serviceAccount.tokens: want"},
		"tokens without a time": {func(m *v1alpha1.MountRequest, _ *provider.Request) {
			m.Attributes = `{"csi.storage.k8s.io/serviceAccount.tokens":"{\"a\":{\"token\":\"t\",\"expirationTimestamp\":\"zzz\"}}"}`
		}, "serviceAccount.tokens: want"},
		"a permission in octal":    {func(m *v1alpha1.MountRequest, _ *provider.Request) { m.Permission = "0644" }, `permission "0644"`},
		"a permission in words":    {func(m *v1alpha1.MountRequest, _ *provider.Request) { m.Permission = "rw" }, `permission "rw"`},
		"a permission below zero":  {func(m *v1alpha1.MountRequest, _ *provider.Request) { m.Permission = "-1" }, `permission "-1"`},
		"a permission with setuid": {func(m *v1alpha1.MountRequest, _ *provider.Request) { m.Permission = "2541" }, `permission "2541"`},
		"versions that are held": {func(m *v1alpha1.MountRequest, r *provider.Request) {
			m.CurrentObjectVersion = []*v1alpha1.ObjectVersion{{Id: "a", Version: "1"}, {Id: "b", Version: "2"}}
			r.Held.Versions = provider.Versions{"a": "1", "b": "2"}
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			message, want := upstream(), decoded()
			test.change(message, want)
			var got *provider.Request
			lis := listen(t, shortDir(t))
			serve(t, lis, fetch(func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
				got = req
				return says("x").Fetch(ctx, req)
			}), nil)
			_, err := driver(t, lis).Mount(t.Context(), message)
			if test.fault != "" {
				if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), test.fault) || strings.Contains(err.Error(), "zzz") {
					t.Errorf("Mount = %v, want InvalidArgument, %s, and no value", err, test.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, values); diff != "" {
				t.Errorf("request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRepliesToUpstreamsDriver(t *testing.T) {
	held := []*v1alpha1.ObjectVersion{{Id: "a", Version: "1"}}
	file := func(mode os.FileMode) []provider.File {
		return []provider.File{{Path: "f", Mode: mode, Data: secret.New([]byte("F"))}}
	}
	one := provider.Versions{"a": "1"}
	for name, test := range map[string]struct {
		held   []*v1alpha1.ObjectVersion
		bundle *provider.Bundle
		want   *v1alpha1.MountResponse
		fault  string
	}{
		"files and versions": {
			bundle: &provider.Bundle{Files: file(0o600), Versions: provider.Versions{"b": "2", "a": "1"}},
			want: &v1alpha1.MountResponse{
				ObjectVersion: []*v1alpha1.ObjectVersion{{Id: "a", Version: "1"}, {Id: "b", Version: "2"}},
				Files:         []*v1alpha1.File{{Path: "f", Mode: 0o600, Contents: []byte("F")}},
			},
		},
		"upstream would write mode 0 as it is": {
			bundle: &provider.Bundle{Files: file(0), Versions: one},
			want:   &v1alpha1.MountResponse{ObjectVersion: held, Files: []*v1alpha1.File{{Path: "f", Mode: 0o644, Contents: []byte("F")}}},
		},
		"unchanged, and the driver holds it": {
			held: held, bundle: &provider.Bundle{Files: file(0o600), Versions: one, Unchanged: true},
			want: &v1alpha1.MountResponse{ObjectVersion: held},
		},
		"unchanged, and the driver holds nothing": {
			bundle: &provider.Bundle{Versions: one, Unchanged: true},
			fault:  "does not hold",
		},
		"unchanged, and the driver holds something else": {
			held: []*v1alpha1.ObjectVersion{{Id: "a", Version: "0"}}, bundle: &provider.Bundle{Versions: one, Unchanged: true},
			fault: "does not hold",
		},
		"no bundle":           {fault: "no bundle"},
		"no versions":         {bundle: &provider.Bundle{Files: file(0o600)}, fault: "missing object versions"},
		"a path that climbs":  {bundle: &provider.Bundle{Files: []provider.File{{Path: "../x"}}, Versions: one}, fault: "../x"},
		"a mode with setuid":  {bundle: &provider.Bundle{Files: file(os.ModeSetuid | 0o755), Versions: one}, fault: "mode"},
		"a lease that is big": {bundle: &provider.Bundle{Versions: one, Lease: provider.Lease{ID: strings.Repeat("x", 3000)}}, want: &v1alpha1.MountResponse{ObjectVersion: held}},
	} {
		t.Run(name, func(t *testing.T) {
			lis := listen(t, shortDir(t))
			serve(t, lis, fetch(func(context.Context, *provider.Request) (*provider.Bundle, error) { return test.bundle, nil }), nil)
			message := upstream()
			message.CurrentObjectVersion = test.held
			got, err := driver(t, lis).Mount(t.Context(), message)
			if test.fault != "" {
				if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), test.fault) {
					t.Errorf("Mount = %v, %v, want Internal, %s", got, err, test.fault)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got, protocmp.Transform()); diff != "" {
				t.Errorf("reply (-want +got):\n%s", diff)
			}
		})
	}
}

func TestEachErrorOfAProviderHasItsCode(t *testing.T) {
	for _, test := range []struct {
		err  error
		want codes.Code
	}{
		{fmt.Errorf("object %q: %w", "a", provider.ErrInvalid), codes.InvalidArgument},
		{fmt.Errorf("object %q: %w", "a", provider.ErrNotFound), codes.NotFound},
		{fmt.Errorf("object %q: %w", "a", provider.ErrDenied), codes.PermissionDenied},
		{fmt.Errorf("object %q: %w", "a", provider.ErrUnavailable), codes.Unavailable},
		{fmt.Errorf("fetch: %w", context.Canceled), codes.Canceled},
		{fmt.Errorf("fetch: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{errors.New("a bug"), codes.Internal},
		{fmt.Errorf("behind it: %w", &plugin.Error{Code: codes.DataLoss, Message: "gone"}), codes.DataLoss},
	} {
		lis := listen(t, shortDir(t))
		serve(t, lis, fetch(func(context.Context, *provider.Request) (*provider.Bundle, error) { return nil, test.err }), nil)
		_, err := driver(t, lis).Mount(t.Context(), upstream())
		if status.Code(err) != test.want || status.Convert(err).Message() != test.err.Error() {
			t.Errorf("Mount = %v for %q, want %v with that text", err, test.err, test.want)
		}
	}
}

func TestAnEchoedTokenIsMaskedForEveryDriver(t *testing.T) {
	lis := listen(t, shortDir(t))
	serve(t, lis, fetch(func(_ context.Context, req *provider.Request) (*provider.Bundle, error) {
		return nil, fmt.Errorf("login with %s: %w", req.Tokens["aud"].Value.Reveal(), provider.ErrDenied)
	}), nil)
	_, err := driver(t, lis).Mount(t.Context(), upstream())
	if got, want := status.Convert(err).Message(), "login with [secret]: denied"; got != want {
		t.Errorf("Mount says %q, want %q", got, want)
	}
}

func TestVersionSaysWhoAnswers(t *testing.T) {
	for name, test := range map[string]struct {
		opts *plugin.ServeOptions
		want *v1alpha1.VersionResponse
	}{
		"by default": {nil, &v1alpha1.VersionResponse{Version: "v1alpha1", RuntimeName: "keymount", RuntimeVersion: "0.0.0"}},
		"by options": {&plugin.ServeOptions{RuntimeName: "file", Version: "1.2.3"}, &v1alpha1.VersionResponse{Version: "v1alpha1", RuntimeName: "file", RuntimeVersion: "1.2.3"}},
	} {
		lis := listen(t, shortDir(t))
		serve(t, lis, says("x"), test.opts)
		got, err := driver(t, lis).Version(t.Context(), &v1alpha1.VersionRequest{Version: "v1alpha1"})
		if err != nil || !proto.Equal(got, test.want) {
			t.Errorf("Version %s = %v, %v, want %v", name, got, err, test.want)
		}
	}
}

func TestAPanicIsInternalAndDoesNotShowItsValue(t *testing.T) {
	leak := canary()
	for name, p := range map[string]func(){
		"a value":          func() { panic(leak) },
		"a runtime error":  func() { _ = map[string][]int{}[leak][len(leak)] },
		"a nil dereferece": func() { var req *provider.Request; _ = req.Class },
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			serve(t, listen(t, dir), panicking{p}, nil)
			client := lookup(t, newDir(t, nil, dir))
			_, err := client.Fetch(t.Context(), fullRequest())
			failures := map[string]error{
				"Fetch":   err,
				"Changes": client.(provider.Notifier).Changes(t.Context(), func(string) {}),
				"Release": client.(provider.Releaser).Release(t.Context(), provider.Lease{ID: "id"}),
			}
			for call, err := range failures {
				if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "internal error") || strings.Contains(err.Error(), leak) {
					t.Errorf("%s = %v, want Internal and no value", call, err)
				}
			}
		})
	}
}

// panicking panics in each method of a provider.
type panicking struct{ f func() }

func (p panicking) Fetch(context.Context, *provider.Request) (*provider.Bundle, error) {
	p.f()
	return nil, nil
}

func (p panicking) Changes(context.Context, func(string)) error { p.f(); return nil }
func (p panicking) Release(context.Context, provider.Lease) error {
	p.f()
	return nil
}

func TestOnlyAllowedUsersAreListenedTo(t *testing.T) {
	self := uint32(os.Getuid())
	for name, test := range map[string]struct {
		uids    []uint32
		allowed bool
	}{
		"anyone":         {nil, true},
		"this user":      {[]uint32{self + 1, self}, true},
		"another user":   {[]uint32{self + 1}, false},
		"no user at all": {[]uint32{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := shortDir(t)
			lis := listen(t, dir)
			serve(t, lis, says("content"), &plugin.ServeOptions{AllowedUIDs: test.uids})
			if test.allowed {
				if got := content(t, lookup(t, newDir(t, nil, dir))); got != "content" {
					t.Errorf("content = %q", got)
				}
				return
			}
			conn, err := net.Dial("unix", lis.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")) // to which gRPC answers at once
			if got, err := io.ReadAll(conn); len(got) != 0 {
				t.Errorf("the server said %q, %v to a stranger", got, err)
			}
		})
	}
}

func TestAListenerThatIsNoUnixSocketHasNoAllowedUsers(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, lis, says("content"), &plugin.ServeOptions{AllowedUIDs: []uint32{uint32(os.Getuid())}})
	conn, err := net.Dial("tcp", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got, _ := io.ReadAll(conn); len(got) != 0 {
		t.Errorf("the server said %q", got)
	}
}

func TestServeLetsRunningCallsEndWithinTheGracePeriod(t *testing.T) {
	dir := shortDir(t)
	entered, leave := make(chan bool), make(chan bool)
	stop := serve(t, listen(t, dir), fetch(func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
		entered <- true
		<-leave
		return says("late").Fetch(ctx, req)
	}), &plugin.ServeOptions{Grace: patience})
	p := lookup(t, newDir(t, nil, dir))
	ended := make(chan error, 1)
	go func() {
		_, err := p.Fetch(t.Context(), fullRequest())
		ended <- err
	}()
	receive(t, entered)
	time.AfterFunc(10*time.Millisecond, func() { close(leave) })
	stop()
	if err := receive(t, ended); err != nil {
		t.Errorf("a call that ran at the end of Serve = %v", err)
	}
}

func TestServeEndsWhenACallOutlastsTheGracePeriod(t *testing.T) {
	dir := shortDir(t)
	entered := make(chan bool)
	stop := serve(t, listen(t, dir), fetch(func(ctx context.Context, _ *provider.Request) (*provider.Bundle, error) {
		entered <- true
		<-ctx.Done()
		return nil, ctx.Err()
	}), &plugin.ServeOptions{Grace: 10 * time.Millisecond})
	p := lookup(t, newDir(t, nil, dir))
	ended := make(chan error, 1)
	go func() {
		_, err := p.Fetch(t.Context(), fullRequest())
		ended <- err
	}()
	receive(t, entered)
	stop()
	if err := receive(t, ended); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("Fetch = %v, want %v", err, provider.ErrUnavailable)
	}
}

func TestServeReturnsTheErrorOfItsListener(t *testing.T) {
	lis := listen(t, shortDir(t))
	_ = lis.Close()
	if err := plugin.Serve(t.Context(), lis, says("x"), nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve = %v, want %v", err, net.ErrClosed)
	}
}

// lockedBuffer is a log that many write to.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// grpcLogs passes what gRPC logs on to a test that wants it. The logger itself
// can only be set before the first connection.
var grpcLogs valve

type valve struct {
	mu sync.Mutex
	to io.Writer // nil: nobody wants it
}

func (v *valve) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.to == nil {
		return len(p), nil
	}
	return v.to.Write(p)
}

func (v *valve) open(to io.Writer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.to = to
}

// captureLogs collects everything that klog at -v=10 and gRPC log during the test.
func captureLogs(t *testing.T) *lockedBuffer {
	t.Helper()
	logged := &lockedBuffer{}
	state := klog.CaptureState()
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"v": "10", "logtostderr": "false", "stderrthreshold": "FATAL"} {
		if err := flags.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	klog.SetOutput(logged)
	grpcLogs.open(logged)
	t.Cleanup(func() {
		klog.Flush()
		state.Restore()
		grpcLogs.open(nil)
	})
	return logged
}

func TestNoSecretReachesALogOrAnError(t *testing.T) {
	logged := captureLogs(t)
	token, credential, value := canary(), canary(), canary()
	req := fullRequest()
	req.Tokens["aud"] = provider.Token{Value: secret.New([]byte(token))}
	req.Credentials["key"] = secret.New([]byte(credential))
	dir := shortDir(t)
	echo := func(failure error) provider.Provider {
		return fetch(func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("x", value))
			if failure == nil {
				return says(value).Fetch(ctx, req)
			}
			return nil, fmt.Errorf("%s %s %v: %w", req.Tokens["aud"].Value.Reveal(), req.Credentials["key"].Reveal(), req, failure)
		})
	}
	var said strings.Builder
	for _, failure := range []error{nil, provider.ErrInvalid, provider.ErrDenied, errors.New("bug")} {
		stop := serve(t, listen(t, dir), echo(failure), nil)
		bundle, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), req)
		if (err == nil) != (failure == nil) {
			t.Fatalf("Fetch = %v, want %v", err, failure)
		}
		fmt.Fprintf(&said, "%v %+v %#v %+v %#v\n", err, err, err, bundle, bundle)
		stop()
	}
	klog.Flush()
	if !strings.Contains(logged.String(), "passthrough") {
		t.Error("gRPC logged nothing, so that the search finds nothing")
	}
	for _, leak := range []string{token, credential, value} {
		if strings.Contains(logged.String(), leak) {
			t.Error("a secret was logged")
		}
	}
	for _, leak := range []string{token, credential} {
		if strings.Contains(said.String(), leak) {
			t.Errorf("an error shows a secret: %s", said.String())
		}
	}
}
