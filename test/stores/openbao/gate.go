package openbao

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
)

// A Gate stands in front of a server, and can keep whoever calls waiting.
type Gate struct {
	listener net.Listener
	server   string
	busy     sync.WaitGroup

	mu      sync.Mutex
	shut    chan struct{} // closed when the gate opens again; nil while it is open
	waiting chan struct{} // receives when somebody waits
	conns   map[net.Conn]bool
}

// Gate returns a gate that is open, with an address of its own. It ends with
// the test.
func (s *Server) Gate(t testing.TB) *Gate {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &Gate{listener: lis, server: s.address, conns: make(map[net.Conn]bool)}
	g.busy.Go(g.accept)
	t.Cleanup(func() {
		_ = lis.Close()
		g.Open()
		g.mu.Lock()
		for conn := range g.conns {
			_ = conn.Close()
		}
		g.mu.Unlock()
		g.busy.Wait()
	})
	return g
}

// Address returns the URL of the server behind the gate.
func (g *Gate) Address() string { return "https://" + g.listener.Addr().String() }

// Close lets nothing through that comes from now on. The channel receives once
// somebody waits.
func (g *Gate) Close() (waiting <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut, g.waiting = make(chan struct{}), make(chan struct{}, 1)
	return g.waiting
}

// Open lets everything through, also what has waited.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != nil {
		close(g.shut)
		g.shut = nil
	}
}

func (g *Gate) accept() {
	for {
		from, err := g.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		g.busy.Go(func() { g.serve(from) })
	}
}

func (g *Gate) serve(from net.Conn) {
	to, err := net.Dial("tcp", g.server)
	if err != nil {
		_ = from.Close()
		return
	}
	g.keep(from, to)
	g.busy.Go(func() {
		_, _ = io.Copy(from, to)
		g.drop(from, to)
	})
	_, _ = io.Copy(to, &gated{from, g})
	g.drop(from, to)
}

func (g *Gate) keep(conns ...net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range conns {
		g.conns[conn] = true
	}
}

func (g *Gate) drop(conns ...net.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, conn := range conns {
		_ = conn.Close()
		delete(g.conns, conn)
	}
}

// gated reads what a caller sends, when the gate is open.
type gated struct {
	net.Conn
	gate *Gate
}

// Read implements io.Reader.
func (r *gated) Read(into []byte) (int, error) {
	n, err := r.Conn.Read(into)
	r.gate.mu.Lock()
	shut, waiting := r.gate.shut, r.gate.waiting
	r.gate.mu.Unlock()
	if shut != nil && n > 0 {
		select {
		case waiting <- struct{}{}:
		default:
		}
		<-shut
	}
	return n, err
}
