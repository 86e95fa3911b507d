package vaulttest

import (
	"io"
	"log"
	"net"
	"net/http"
	"sync"
)

// A listener knows its connections, and drops new ones while it is broken. It
// keeps its port, which nobody else can take during an outage.
type listener struct {
	net.Listener
	calls sync.RWMutex // held by each request in ServeHTTP

	mu     sync.Mutex
	broken bool
	open   map[net.Conn]bool
}

// Accept returns the next connection that is not dropped.
func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if !l.isBroken() {
			return conn, nil
		}
		drop(conn)
	}
}

// drop ends the connection so that the other side sees a reset.
func drop(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // an orderly end is as good
	}
	_ = conn.Close() // it is gone either way
}

func (l *listener) isBroken() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken
}

func (l *listener) setBroken(broken bool) {
	l.mu.Lock()
	l.broken = broken
	l.mu.Unlock()
	if broken {
		l.closeAll()
	}
}

// track is the server's ConnState.
func (l *listener) track(conn net.Conn, state http.ConnState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch state {
	case http.StateNew:
		if l.open == nil {
			l.open = map[net.Conn]bool{}
		}
		l.open[conn] = true
	case http.StateClosed, http.StateHijacked:
		delete(l.open, conn)
	case http.StateActive, http.StateIdle:
	}
}

// closeAll closes the connections, in use or not.
func (l *listener) closeAll() {
	l.mu.Lock()
	conns := make([]net.Conn, 0, len(l.open))
	for conn := range l.open {
		conns = append(conns, conn)
	}
	l.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close() // it is gone either way
	}
}

// silent returns a log for what clients do to the connection on purpose.
func silent() *log.Logger { return log.New(io.Discard, "", 0) }
