// Package openbao builds, starts and commands a real OpenBao for tests. It is
// the server that both `provider: openbao` and `provider: vault` are tested
// with: on the wire the products are one.
package openbao

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Options adjust a server; nil is fine.
type Options struct {
	// Address is where the server listens. Default: 127.0.0.1, and a port that
	// is free.
	Address string
	// Names are those in the server's certificate. Default: that of Address.
	Names []string
	// ClientAuthority is the one that every client must show a certificate of.
	// Default: none need show any.
	ClientAuthority *Authority
}

func (o *Options) address(t testing.TB) string {
	if o == nil || o.Address == "" {
		return fmt.Sprintf("127.0.0.1:%d", freePort(t))
	}
	return o.Address
}

func (o *Options) clientAuthority() *Authority {
	if o == nil {
		return nil
	}
	return o.ClientAuthority
}

// A Server is one process of OpenBao with TLS, storage on disk and an audit
// log. What it embeds is root.
type Server struct {
	*Client
	options   *Options
	binary    string
	dir       string
	address   string
	authority *Authority
	unsealKey string
	log       *os.File
	process   *exec.Cmd
}

// New starts a server, initialised and unsealed. It ends with the test.
func New(t testing.TB, opts *Options) *Server {
	t.Helper()
	s := &Server{options: opts, dir: t.TempDir(), address: opts.address(t)}
	s.Client = &Client{server: s}
	var err error
	if s.binary, err = Binary(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s.log, err = os.Create(s.path("log")); err != nil {
		t.Fatal(err)
	}
	s.configure(t)
	s.SetAuthority(t, NewAuthority(t))
	t.Cleanup(func() {
		if s.process != nil {
			s.end(syscall.SIGKILL)
		}
		_ = s.log.Close()
	})
	s.start(t)
	s.init(t)
	s.Unseal(t)
	return s
}

func (s *Server) path(name string) string { return filepath.Join(s.dir, name) }

// Address returns the server's URL.
func (s *Server) Address() string { return "https://" + s.address }

// names are those in the certificate.
func (s *Server) names() []string {
	if s.options == nil || len(s.options.Names) == 0 {
		host, _, _ := strings.Cut(s.address, ":")
		return []string{host}
	}
	return s.options.Names
}

// CAFile returns the path of the certificate of the server's authority.
func (s *Server) CAFile() string { return s.path("ca.crt") }

func (s *Server) configure(t testing.TB) {
	t.Helper()
	clients := ""
	if a := s.options.clientAuthority(); a != nil {
		write(t, s.path("clients.crt"), a.PEM())
		clients = fmt.Sprintf("tls_require_and_verify_client_cert = true\n  tls_client_ca_file = %q", s.path("clients.crt"))
	}
	write(t, s.path("config.hcl"), fmt.Appendf(nil, `
api_addr = %[1]q
storage "file" {
  path = %[2]q
}
listener "tcp" {
  address = %[3]q
  tls_cert_file = %[4]q
  tls_key_file = %[5]q
  %[6]s
}
audit "file" "log" {
  options {
    file_path = %[7]q
    hmac_accessor = "false"
  }
}
`, s.Address(), s.path("data"), s.address, s.path("tls.crt"), s.path("tls.key"), clients, s.path("audit")))
}

// SetAuthority gives the server a certificate of another authority, and puts
// that one into CAFile.
func (s *Server) SetAuthority(t testing.TB, a *Authority) {
	t.Helper()
	certificate, key := a.Issue(t, s.names()...)
	write(t, s.path("tls.crt"), certificate)
	write(t, s.path("tls.key"), key)
	write(t, s.CAFile(), a.PEM())
	s.authority = a
	if s.process == nil {
		return
	}
	if err := s.process.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.answers(t)
}

// ownCertificate is the client certificate of the root client.
func (s *Server) ownCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(s.path("root.crt"), s.path("root.key"))
	if errors.Is(err, os.ErrNotExist) {
		return &tls.Certificate{}, nil
	}
	return &pair, err
}

// start starts the process and waits until it answers.
func (s *Server) start(t testing.TB) {
	t.Helper()
	if a := s.options.clientAuthority(); a != nil {
		certificate, key := a.Issue(t, "root")
		write(t, s.path("root.crt"), certificate)
		write(t, s.path("root.key"), key)
	}
	s.process = exec.Command(s.binary, "server", "-config="+s.path("config.hcl"))
	s.process.Env = []string{"HOME=" + s.dir, "PATH=" + os.Getenv("PATH")}
	s.process.Stdout, s.process.Stderr = s.log, s.log
	s.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.process.Start(); err != nil {
		t.Fatal(err)
	}
	s.answers(t)
}

func (s *Server) answers(t testing.TB) {
	t.Helper()
	s.eventually(t, "the server answers", func() error {
		_, err := s.Do(context.WithoutCancel(t.Context()), "GET", "sys/seal-status", nil)
		return err
	})
}

// init makes the root token and the key that unseals.
func (s *Server) init(t testing.TB) {
	t.Helper()
	answer := s.Write(t, "sys/init", Fields{"secret_shares": 1, "secret_threshold": 1})
	s.unsealKey, s.token = answer.Keys[0], answer.RootToken
}

// Seal seals the server: it answers 503 to everything.
func (s *Server) Seal(t testing.TB) {
	t.Helper()
	s.Write(t, "sys/seal", nil)
}

// Unseal ends what Seal, Restart or Kill began.
func (s *Server) Unseal(t testing.TB) {
	t.Helper()
	s.Write(t, "sys/unseal", Fields{"key": s.unsealKey})
	s.eventually(t, "the server is unsealed", func() error {
		_, err := s.Do(context.WithoutCancel(t.Context()), "GET", "sys/health", nil)
		return err
	})
}

// Kill ends the process at once. Nobody listens on its port any more.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	s.end(syscall.SIGKILL)
}

// Start starts the process after Kill, and unseals it.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	s.start(t)
	s.Unseal(t)
}

func (s *Server) end(signal syscall.Signal) {
	_ = s.process.Process.Signal(signal) // it may have ended by itself
	_ = s.process.Wait()
	s.process = nil
}

// Logged returns what the server has logged, and its audit log.
func (s *Server) Logged(t testing.TB) string {
	t.Helper()
	var text strings.Builder
	for _, name := range []string{"log", "audit"} {
		part, err := os.ReadFile(s.path(name))
		if err != nil {
			t.Fatal(err)
		}
		text.Write(part)
	}
	return text.String()
}

// eventually calls ok until it returns nil.
func (s *Server) eventually(t testing.TB, what string, ok func() error) {
	t.Helper()
	deadline := time.After(timeout)
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			log, _ := os.ReadFile(s.path("log"))
			t.Fatalf("not after %v: %s: %v\n%s", timeout, what, err, log)
		}
	}
}

func freePort(t testing.TB) int {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lis.Close() }()
	return lis.Addr().(*net.TCPAddr).Port
}

// write replaces a file at once.
func write(t testing.TB, path string, text []byte) {
	t.Helper()
	if err := errors.Join(os.WriteFile(path+".new", text, 0o600), os.Rename(path+".new", path)); err != nil {
		t.Fatal(err)
	}
}
