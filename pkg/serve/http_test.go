package serve_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/serve"
)

// freePort returns an address of this machine that was free a moment ago.
func freePort(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	return lis.Addr().String()
}

// startHTTP serves h and returns its address once it answers.
func startHTTP(t *testing.T, grace time.Duration, h http.Handler) (addr string, stop context.CancelFunc, served <-chan error) {
	t.Helper()
	addr = freePort(t)
	ctx, stop := context.WithCancel(t.Context())
	t.Cleanup(stop)
	done := make(chan error, 1)
	go func() { done <- serve.HTTP(ctx, addr, "", h, grace) }()
	for {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
			return addr, stop, done
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatal(err)
		}
		select {
		case err := <-done:
			t.Fatalf("HTTP = %v before it answered", err)
		default:
		}
	}
}

// fetch makes a request on a connection of its own.
func fetch(t *testing.T, addr, path string) (reply, error) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("http://" + addr + path)
	if err != nil {
		return reply{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, string(body)}, err
}

func TestHTTPServesHealthUntilTheContextEnds(t *testing.T) {
	addr, stop, served := startHTTP(t, time.Minute, &serve.Health{})
	got, err := fetch(t, addr, "/healthz")
	if want := (reply{200, "ok\n"}); err != nil || got != want {
		t.Errorf("GET /healthz = %v, %v; want %v", got, err, want)
	}
	stop()
	if err := <-served; err != nil {
		t.Errorf("HTTP = %v, want nil", err)
	}
}

func TestHTTPPanicIsA500WithoutItsValue(t *testing.T) {
	log := captureLog(t, "10")
	addr, stop, served := startHTTP(t, time.Minute, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(canary) }))
	got, err := fetch(t, addr, "/")
	if want := (reply{500, "internal error\n"}); err != nil || got != want {
		t.Errorf("GET / = %v, %v; want %v", got, err, want)
	}
	stop()
	<-served
	if len(log.lines("Recovered from a panic")) != 1 {
		t.Errorf("the log lacks the panic: %q", log.lines(""))
	}
}

func TestHTTPStopIsBounded(t *testing.T) {
	entered, ended := make(chan struct{}), make(chan struct{})
	addr, stop, served := startHTTP(t, 20*time.Millisecond, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
		close(ended)
	}))
	answered := make(chan error, 1)
	go func() {
		_, err := fetch(t, addr, "/")
		answered <- err
	}()
	<-entered
	stop()
	if err := <-served; err != nil {
		t.Errorf("HTTP = %v, want nil", err)
	}
	<-ended
	if err := <-answered; err == nil {
		t.Error("the request that outlived the grace succeeded")
	}
}

func TestHTTPIsOffWithoutAnAddress(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- serve.HTTP(ctx, "", "", nil, 0) }()
	select {
	case err := <-done:
		t.Fatalf("HTTP returned %v before the end of its context", err)
	default:
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("HTTP = %v, want nil", err)
	}
}

func TestHTTPOnAnAddressInUseIsAnError(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	if err := serve.HTTP(t.Context(), lis.Addr().String(), "", &serve.Health{}, 0); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("HTTP = %v, want EADDRINUSE", err)
	}
}
