package pipe_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keymount/keymount/pkg/provider/providertest/pipe"
)

// connect returns both ends of a connection.
func connect(t *testing.T) (client, server net.Conn) {
	t.Helper()
	l := pipe.Listen("store:1")
	accepted := make(chan net.Conn)
	go func() {
		conn, _ := l.Accept()
		accepted <- conn
	}()
	client, err := l.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return client, <-accepted
}

func TestAWriteWaitsForNobodyAndIsReadToItsEnd(t *testing.T) {
	client, server := connect(t)
	want := strings.Repeat("x", 1<<20)
	if n, err := io.WriteString(client, want); n != len(want) || err != nil {
		t.Fatal(n, err)
	}
	_ = client.Close()
	if got, err := io.ReadAll(server); string(got) != want || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if _, err := server.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a write to who has left: %v", err)
	}
}

func TestAReadEndsAtItsDeadlineAndNotAtOneThatWasTakenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := connect(t)
		_ = client.SetReadDeadline(time.Now().Add(-time.Hour))
		_ = client.SetReadDeadline(time.Time{})
		_ = client.SetDeadline(time.Now().Add(time.Minute))
		began := time.Now()
		if _, err := client.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != time.Minute {
			t.Errorf("%v after %v, want the deadline after a minute", err, time.Since(began))
		}
		_ = client.SetReadDeadline(time.Time{})
		time.AfterFunc(time.Hour, func() { _, _ = server.Write([]byte("x")) })
		if n, err := client.Read(make([]byte, 1)); n != 1 || err != nil {
			t.Error(n, err)
		}
	})
}

func TestNobodyIsConnectedToAListenerThatIsClosed(t *testing.T) {
	l := pipe.Listen("store:1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Dial(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Dial = %v while nobody accepts, want the end of the context", err)
	}
	_, _ = l.Close(), l.Close()
	if _, err := l.Dial(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Dial = %v", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v", err)
	}
	if l.Addr().String() != "store:1" || l.Addr().Network() != "pipe" {
		t.Error(l.Addr())
	}
}

// A connection serves many requests: net/http sets deadlines in the past
// between them, to end what it reads meanwhile.
func TestHTTPKeepsConnections(t *testing.T) {
	l := pipe.Listen("store:80")
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })}
	go func() { _ = server.Serve(l) }()
	defer server.Close()
	dialled := 0
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		dialled++
		return l.Dial(ctx)
	}}}
	defer client.CloseIdleConnections()
	for range 200 {
		resp, err := client.Post("http://store/", "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if string(body) != "x" || err != nil {
			t.Fatal(string(body), err)
		}
	}
	if dialled != 1 {
		t.Errorf("%d connections for requests after each other, want 1", dialled)
	}
}
