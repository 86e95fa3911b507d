package vaulttest

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"errors"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider/providertest/pipe"
)

// RootToken is the token that may do everything and never ends.
const RootToken = "root"

// Options change what New makes. A nil *Options is fine.
type Options struct {
	// Pipe serves connections made by Server.Dial only, which have no network
	// below them, so that a testing/synctest bubble can wait for them.
	Pipe bool
}

// A Server is a store of secrets that speaks the protocol of Vault and
// OpenBao. Its embedded Namespace is the root namespace. All methods may be
// called at any time from any goroutine.
type Server struct {
	*Namespace
	URL    string // https://127.0.0.1:port
	CAFile string // the CA certificate that the server's own is signed by

	ca       authority
	signer   *ecdsa.PrivateKey // of service account tokens
	listener *listener
	http     *http.Server

	mu         sync.Mutex
	namespaces map[string]*Namespace // by path: "" or "team/"
	tokens     map[string]*token     // by id; batch tokens too
	leases     map[string]*lease     // by id
	denied     []string              // paths that Deny named
	sealed     bool
	issued     int // tokens by login or Token
	logins     int
	requests   []Request
	faults     faults
}

// New starts a server, which ends with t.
func New(t testing.TB, opts *Options) *Server {
	t.Helper()
	s := &Server{
		ca:         newAuthority(t, "vaulttest"),
		signer:     newKey(t),
		namespaces: map[string]*Namespace{},
		tokens:     map[string]*token{},
		leases:     map[string]*lease{},
	}
	s.Namespace = newNamespace(t, s, "")
	s.namespaces[""] = s.Namespace
	s.tokens[RootToken] = &token{id: RootToken, accessor: random(24), display: "token", ns: s.Namespace, path: "auth/token/create",
		issued: time.Now(), root: true, policies: []string{"root"}}
	s.faults.init()
	s.CAFile = s.ca.write(t)
	s.listen(t, opts != nil && opts.Pipe)
	return s
}

// listen serves until t ends.
func (s *Server) listen(t testing.TB, piped bool) {
	t.Helper()
	var inner net.Listener = pipe.Listen("127.0.0.1:8200")
	if !piped {
		var err error
		if inner, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			t.Fatalf("listen: %v", err)
		}
	}
	s.listener = &listener{Listener: inner}
	s.URL = "https://" + inner.Addr().String()
	s.http = &http.Server{Handler: s, ErrorLog: silent(), ReadHeaderTimeout: time.Minute, TLSConfig: s.ca.serverConfig(t), ConnState: s.listener.track}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.http.ServeTLS(s.listener, "", "") // ends with ErrServerClosed, by Close
	}()
	t.Cleanup(func() {
		s.faults.end()
		_ = s.http.Close() // what is still open belongs to clients of a test that is over
		<-served
		s.listener.calls.Lock() // the last request is answered
		defer s.listener.calls.Unlock()
	})
}

// Dial connects to a server that has Options.Pipe: it is made to be an
// http.Transport's DialContext.
func (s *Server) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	p, ok := s.listener.Listener.(*pipe.Listener)
	if !ok {
		return nil, errors.New("dial vaulttest: the server was made without Options.Pipe")
	}
	return p.Dial(ctx)
}

// CAPEM returns the certificate of CAFile.
func (s *Server) CAPEM() []byte { return s.ca.pem() }

// Seal makes the server answer that it is sealed, until Unseal.
func (s *Server) Seal() { s.setSealed(true) }

// Unseal ends what Seal began: everything is as before.
func (s *Server) Unseal() { s.setSealed(false) }

func (s *Server) setSealed(sealed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sealed = sealed
}

// Restart closes every connection, as a new process on the same address and
// the same storage would: tokens, leases and secrets stay.
func (s *Server) Restart() { s.listener.closeAll() }

// Deny refuses the path and what is below it to every token but the root
// token: "secret/data/db", or "team/secret" in a namespace.
func (s *Server) Deny(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = append(s.denied, path)
}

// Allow takes back what Deny said of the path.
func (s *Server) Allow(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.denied = slices.DeleteFunc(s.denied, func(denied string) bool { return denied == path })
}

// within reports whether the path is the other one or below it.
func within(path, other string) bool {
	other = strings.TrimSuffix(other, "/")
	return other == "" || path == other || strings.HasPrefix(path, other+"/")
}

// expire ends the tokens and leases whose time is over. Whoever holds mu calls
// it first, so that nothing that is over is ever seen.
func (s *Server) expire(now time.Time) {
	for _, t := range s.tokens {
		if t.over(now) {
			s.revokeToken(t)
		}
	}
	for id, l := range s.leases {
		if !now.Before(l.expires) {
			delete(s.leases, id)
		}
	}
}

// or returns the first duration that is not zero.
func or(d ...time.Duration) time.Duration { return cmp.Or(d...) }
