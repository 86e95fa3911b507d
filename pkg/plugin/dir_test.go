package plugin_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
)

func TestLookupAcceptsTheNamesThatUpstreamAcceptsExceptTheEmptyOne(t *testing.T) {
	d := newDir(t, nil, shortDir(t))
	for name, want := range map[string]error{
		"vault":                 provider.ErrUnavailable, // a good name without a socket
		"a":                     provider.ErrUnavailable,
		"A-b_9":                 provider.ErrUnavailable,
		strings.Repeat("x", 30): provider.ErrUnavailable,
		strings.Repeat("x", 31): provider.ErrInvalid,
		"":                      provider.ErrInvalid,
		".":                     provider.ErrInvalid,
		"../vault":              provider.ErrInvalid,
		"vault.sock":            provider.ErrInvalid,
		"vault\n":               provider.ErrInvalid,
		"väult":                 provider.ErrInvalid,
	} {
		if _, err := d.Lookup(name); !errors.Is(err, want) {
			t.Errorf("Lookup(%q) = %v, want %v", name, err, want)
		}
	}
}

// Upstream reports its commonest failure with an empty error_type.
func TestB11AMissingSocketHasAReasonAndSaysWhereItWasSought(t *testing.T) {
	first, second := shortDir(t), shortDir(t)
	if err := os.WriteFile(filepath.Join(first, "test.sock"), nil, 0o600); err != nil { // a file, but no socket
		t.Fatal(err)
	}
	_, err := newDir(t, nil, first, second).Lookup("test")
	if got := provider.Reason(err); got != "Unavailable" {
		t.Errorf("Reason(%v) = %q, want Unavailable", err, got)
	}
	for _, want := range []string{`provider "test"`, "no socket test.sock in [" + first + " " + second + "]", "running on this node?"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("Lookup: %q does not say %q", err, want)
		}
	}
}

func TestAReplacedSocketIsDialledAnew(t *testing.T) {
	dir := shortDir(t)
	stop := serve(t, listen(t, dir), says("old"), nil)
	p := lookup(t, newDir(t, nil, dir))
	if got := content(t, p); got != "old" {
		t.Fatalf("content = %q, want old", got)
	}
	stop()
	serve(t, listen(t, dir), says("new"), nil)
	if got := content(t, p); got != "new" {
		t.Errorf("content after the provider's restart = %q, want new", got)
	}
}

func TestASocketIsFollowedFromDirectoryToDirectory(t *testing.T) {
	first, second := shortDir(t), shortDir(t)
	stop := serve(t, listen(t, first), says("old"), nil)
	p := lookup(t, newDir(t, nil, first, second))
	if got := content(t, p); got != "old" {
		t.Fatalf("content = %q, want old", got)
	}
	stop()
	if err := os.Remove(filepath.Join(first, "test.sock")); err != nil {
		t.Fatal(err)
	}
	_, err := p.Fetch(t.Context(), &provider.Request{})
	if !errors.Is(err, provider.ErrUnavailable) || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("Fetch without a socket = %v, want no socket", err)
	}
	serve(t, listen(t, second), says("new"), nil)
	if got := content(t, p); got != "new" {
		t.Errorf("content after the move = %q, want new", got)
	}
}

// Upstream's search stops at the first file, dead or alive.
func TestB16ADeadSocketDoesNotHideALiveOneInTheNextDirectory(t *testing.T) {
	first, second := shortDir(t), shortDir(t)
	_ = listen(t, first).Close()
	serve(t, listen(t, second), says("alive"), nil)
	if got := content(t, lookup(t, newDir(t, nil, first, second))); got != "alive" {
		t.Errorf("content = %q, want alive", got)
	}
}

// Upstream's losers of the race to create a client leak their connections.
func TestB16ConcurrentLookupsMakeOneConnection(t *testing.T) {
	dir := shortDir(t)
	lis := count(listen(t, dir))
	serve(t, lis, says("content"), nil)
	d := newDir(t, nil, dir)
	var calls sync.WaitGroup
	for range 20 {
		calls.Go(func() {
			p, err := d.Lookup("test")
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := p.Fetch(t.Context(), &provider.Request{}); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if got := lis.accepted.Load(); got != 1 {
		t.Errorf("20 concurrent calls made %d connections, want 1", got)
	}
}

func TestAnOldConnectionIsClosedWhenItsCallsEnd(t *testing.T) {
	dir := shortDir(t)
	entered, leave := make(chan bool), make(chan bool)
	old := count(listen(t, dir))
	serve(t, old, fetch(func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
		entered <- true
		<-leave
		return says("old").Fetch(ctx, req)
	}), nil)
	p := lookup(t, newDir(t, nil, dir))
	ended := make(chan error, 1)
	go func() {
		_, err := p.Fetch(t.Context(), &provider.Request{})
		ended <- err
	}()
	receive(t, entered)

	serve(t, listen(t, dir), says("new"), nil)
	if got := content(t, p); got != "new" {
		t.Errorf("content = %q, want new", got)
	}
	select {
	case <-old.closed:
		t.Error("the old connection was closed under a running call")
	default:
	}
	close(leave)
	if err := receive(t, ended); err != nil {
		t.Errorf("the running call failed: %v", err)
	}
	receive(t, old.closed)
}

func TestADeadSocketIsWaitedForWithinABound(t *testing.T) {
	dir := shortDir(t)
	_ = listen(t, dir).Close()
	d := newDir(t, &plugin.Options{DialWait: 30 * time.Millisecond}, dir)
	start := time.Now()
	_, err := lookup(t, d).Fetch(t.Context(), &provider.Request{})
	if !errors.Is(err, provider.ErrUnavailable) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("Fetch = %v, want the connection refused", err)
	}
	if took := time.Since(start); took > patience/2 {
		t.Errorf("Fetch took %v, want about 30 ms", took)
	}
}

func TestADeadSocketIsWaitedForNoLongerThanTheContext(t *testing.T) {
	dir := shortDir(t)
	_ = listen(t, dir).Close()
	d := newDir(t, &plugin.Options{DialWait: time.Hour}, dir)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	_, err := lookup(t, d).Fetch(ctx, &provider.Request{})
	if !errors.Is(err, provider.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Fetch = %v, want %v and %v", err, provider.ErrUnavailable, context.DeadlineExceeded)
	}
}

func TestASocketThatAcceptsAndSaysNothingIsWaitedForWithinABound(t *testing.T) {
	dir := shortDir(t)
	listen(t, dir) // the kernel accepts, nobody serves
	d := newDir(t, &plugin.Options{DialWait: 30 * time.Millisecond}, dir)
	_, err := lookup(t, d).Fetch(t.Context(), &provider.Request{})
	if !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("Fetch = %v, want %v", err, provider.ErrUnavailable)
	}
}

func TestACallWaitsForAProviderThatIsStartingAndConnectsOnce(t *testing.T) {
	dir := shortDir(t)
	dying := listen(t, dir)
	p := lookup(t, newDir(t, &plugin.Options{DialWait: patience}, dir))
	got := make(chan string, 1)
	go func() { got <- content(t, p) }()
	conn, err := dying.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = dying.Close()
	_ = conn.Close()
	lis := count(listen(t, dir))
	serve(t, lis, says("started"), nil)
	if got := receive(t, got); got != "started" {
		t.Errorf("content = %q, want started", got)
	}
	if got := content(t, p); got != "started" || lis.accepted.Load() != 1 {
		t.Errorf("content = %q after %d connections, want started after 1", got, lis.accepted.Load())
	}
}

func TestAHangingProviderHonoursTheContext(t *testing.T) {
	dir := shortDir(t)
	entered, left := make(chan bool, 1), make(chan bool, 1)
	serve(t, listen(t, dir), fetch(func(ctx context.Context, _ *provider.Request) (*provider.Bundle, error) {
		entered <- true
		<-ctx.Done()
		left <- true
		return nil, ctx.Err()
	}), nil)
	ctx, cancel := context.WithCancel(t.Context())
	p := lookup(t, newDir(t, nil, dir))
	failed := make(chan error, 1)
	go func() {
		_, err := p.Fetch(ctx, &provider.Request{})
		failed <- err
	}()
	receive(t, entered)
	cancel()
	err := receive(t, failed)
	if !errors.Is(err, context.Canceled) || !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("Fetch = %v, want %v and %v", err, context.Canceled, provider.ErrUnavailable)
	}
	receive(t, left)
}

func TestAFailedCallIsNotRepeated(t *testing.T) {
	dir := shortDir(t)
	calls := make(chan bool, 10)
	serveForeign(t, listen(t, dir), foreign{mount: func(context.Context, *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		calls <- true
		return nil, status.Error(codes.Unavailable, "later")
	}})
	if _, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), &provider.Request{}); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("Fetch = %v, want %v", err, provider.ErrUnavailable)
	}
	if len(calls) != 1 {
		t.Errorf("the provider was called %d times, want once", len(calls))
	}
}

func TestCloseFailsRunningAndLaterCalls(t *testing.T) {
	dir := shortDir(t)
	entered := make(chan bool, 1)
	serve(t, listen(t, dir), fetch(func(ctx context.Context, _ *provider.Request) (*provider.Bundle, error) {
		entered <- true
		<-ctx.Done()
		return nil, ctx.Err()
	}), nil)
	d := newDir(t, nil, dir)
	p := lookup(t, d)
	failed := make(chan error, 1)
	go func() {
		_, err := p.Fetch(t.Context(), &provider.Request{})
		failed <- err
	}()
	receive(t, entered)
	for range 2 {
		if err := d.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
	}
	if err := receive(t, failed); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("the running call = %v, want %v", err, provider.ErrUnavailable)
	}
	if _, err := p.Fetch(t.Context(), &provider.Request{}); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("a later call = %v, want %v", err, provider.ErrUnavailable)
	}
}

func TestCloseEndsACallThatWaitsForItsProvider(t *testing.T) {
	dir := shortDir(t)
	lis := listen(t, dir)
	d := newDir(t, &plugin.Options{DialWait: time.Hour}, dir)
	p := lookup(t, d)
	failed := make(chan error, 1)
	go func() {
		_, err := p.Fetch(t.Context(), &provider.Request{})
		failed <- err
	}()
	conn, err := lis.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := receive(t, failed); !errors.Is(err, provider.ErrUnavailable) || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("Fetch = %v, want %v: it is shutting down", err, provider.ErrUnavailable)
	}
}

// Upstream's health check leaks a context at each tick, and holds the lock
// that every publish needs while a provider does not answer.
func TestB15ACheckLeaksNothingAndBlocksNoOtherCall(t *testing.T) {
	dir := shortDir(t)
	serve(t, listen(t, dir), says("content"), nil)
	d := newDir(t, &plugin.Options{DialWait: patience}, dir)
	for range 10 {
		if err := d.Check(t.Context(), "test"); err != nil { // TestMain finds what leaks
			t.Errorf("Check = %v", err)
		}
	}
	silent := filepath.Join(dir, "silent.sock")
	if err := os.Rename(listen(t, shortDir(t)).Addr().String(), silent); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	checked := make(chan error, 1)
	go func() { checked <- d.Check(ctx, "silent") }()
	if got := content(t, lookup(t, d)); got != "content" {
		t.Errorf("content = %q while another provider is silent, want content", got)
	}
	cancel()
	if err := receive(t, checked); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("Check of a silent provider = %v, want %v", err, provider.ErrUnavailable)
	}
	if err := d.Check(t.Context(), "absent"); !errors.Is(err, provider.ErrUnavailable) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Check of an absent provider = %v, want %v", err, provider.ErrUnavailable)
	}
}
