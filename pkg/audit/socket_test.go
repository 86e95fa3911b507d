package audit

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestASocketIsConnectedToAgain(t *testing.T) {
	dir, err := os.MkdirTemp("", "audit") // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "a.sock")
	sink, err := Open("unix://" + path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sink.Close() })
	log, err := New(sink, Options{Required: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := log.gate(t.Context(), &Event{Event: Fetch, Decision: Allow}); !errors.Is(err, ErrNotWritten) {
		t.Errorf("gate = %v while nobody listens", err)
	}
	for range 2 {
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan []byte)
		go func() {
			conn, err := listener.Accept()
			if err != nil {
				close(got)
				return
			}
			line := make([]byte, 6)
			_, _ = io.ReadFull(conn, line)
			_ = conn.Close()
			got <- line
		}()
		_ = sink.Write([]byte("lost\n")) // to a connection that has ended, or none
		err = sink.Write([]byte("again\n"))
		if err != nil {
			err = sink.Write([]byte("again\n"))
		}
		if line := <-got; err != nil || len(bytes.TrimSpace(line)) == 0 {
			t.Errorf("%q, %v", line, err)
		}
		_ = listener.Close()
	}
}
