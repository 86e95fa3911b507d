// Package pipe has connections within a process, without a network below them,
// so that a testing/synctest bubble can wait for them. They keep deadlines, as
// net/http needs.
package pipe

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A Listener accepts the connections that its Dial makes. It is safe for
// concurrent use.
type Listener struct {
	addr   addr
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Listen returns a Listener. The address is what it and its connections are
// called, and means nothing else.
func Listen(address string) *Listener {
	return &Listener{addr: addr(address), conns: make(chan net.Conn), closed: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. Connections live on.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.addr }

// Dial returns the client's end of a new connection, once the other end is
// accepted.
func (l *Listener) Dial(ctx context.Context) (net.Conn, error) {
	up, down := newStream(), newStream()
	select {
	case l.conns <- end{l.addr, up, down}:
		return end{l.addr, down, up}, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// An addr is that of everything that a Listener has.
type addr string

func (addr) Network() string  { return "pipe" }
func (a addr) String() string { return string(a) }

// A stream carries bytes in one direction. It takes any number of them before
// they are read, unlike net.Pipe: whoever says goodbye to somebody who has
// left must not wait.
type stream struct {
	mu       sync.Mutex
	data     []byte
	over     bool // nothing is written any more
	deadline time.Time
	timer    *time.Timer
	changed  chan struct{} // closed, and made anew, when one of the above changes
}

func newStream() *stream { return &stream{changed: make(chan struct{})} }

// change does something to the stream and wakes who waits for it.
func (s *stream) change(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *stream) read(p []byte) (int, error) {
	for {
		n, wait, err := s.take(p)
		if wait == nil {
			return n, err
		}
		<-wait
	}
}

// take returns what there is, or the channel that tells when to try again.
func (s *stream) take(p []byte) (n int, wait <-chan struct{}, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case !s.deadline.IsZero() && !time.Now().Before(s.deadline):
		return 0, nil, os.ErrDeadlineExceeded
	case len(s.data) > 0:
		n = copy(p, s.data)
		s.data = s.data[n:]
		return n, nil, nil
	case s.over:
		return 0, nil, io.EOF
	}
	return 0, s.changed, nil
}

func (s *stream) write(p []byte) (n int, err error) {
	s.change(func() {
		if s.over {
			err = io.ErrClosedPipe
			return
		}
		n, s.data = len(p), append(s.data, p...)
	})
	return n, err
}

func (s *stream) end() { s.change(func() { s.over = true }) }

func (s *stream) setDeadline(t time.Time) {
	s.change(func() {
		if s.timer != nil {
			s.timer.Stop()
		}
		if s.deadline = t; time.Until(t) > 0 {
			s.timer = time.AfterFunc(time.Until(t), func() { s.change(func() {}) })
		}
	})
}

// An end is one end of a connection.
type end struct {
	addr    addr
	in, out *stream
}

func (e end) Read(p []byte) (int, error)  { return e.in.read(p) }
func (e end) Write(p []byte) (int, error) { return e.out.write(p) }
func (e end) LocalAddr() net.Addr         { return e.addr }
func (e end) RemoteAddr() net.Addr        { return e.addr }

func (e end) Close() error {
	e.in.end()
	e.out.end()
	return nil
}

func (e end) SetDeadline(t time.Time) error     { return e.SetReadDeadline(t) }
func (e end) SetWriteDeadline(time.Time) error  { return nil } // a write never waits
func (e end) SetReadDeadline(t time.Time) error { e.in.setDeadline(t); return nil }
