package awstest

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A pipe is a listener without a network.
type pipe struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipe() *pipe { return &pipe{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipe) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipe) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}

func (p *pipe) Addr() net.Addr { return pipeAddr{} }

// dial returns the client's end of a new connection.
func (p *pipe) dial(ctx context.Context) (net.Conn, error) {
	client, server := newEnds()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// A pipeAddr is that of everything in a pipe.
type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "awstest" }

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
type end struct{ in, out *stream }

func newEnds() (client, server net.Conn) {
	up, down := newStream(), newStream()
	return end{down, up}, end{up, down}
}

func (e end) Read(p []byte) (int, error)  { return e.in.read(p) }
func (e end) Write(p []byte) (int, error) { return e.out.write(p) }
func (e end) LocalAddr() net.Addr         { return pipeAddr{} }
func (e end) RemoteAddr() net.Addr        { return pipeAddr{} }

func (e end) Close() error {
	e.in.end()
	e.out.end()
	return nil
}

func (e end) SetDeadline(t time.Time) error     { return e.SetReadDeadline(t) }
func (e end) SetWriteDeadline(time.Time) error  { return nil } // a write never waits
func (e end) SetReadDeadline(t time.Time) error { e.in.setDeadline(t); return nil }
