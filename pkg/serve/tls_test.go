package serve_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/serve"
)

// An identity is a certificate that vouches for itself, with its key.
type identity struct{ cert, key []byte }

func newIdentity(t *testing.T, serial int64) identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return identity{pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})}
}

// A secured server has two pages, one of them for known clients only.
type secured struct {
	t      *testing.T
	folder string
	addr   string
	trust  *x509.CertPool
}

func (s *secured) write(name string, text []byte) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.folder, name), text, 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *secured) become(id identity) {
	s.write("tls.crt", id.cert)
	s.write("tls.key", id.key)
	s.trust.AppendCertsFromPEM(id.cert)
}

func startSecured(t *testing.T) *secured {
	s := &secured{t: t, folder: t.TempDir(), addr: freePort(t), trust: x509.NewCertPool()}
	s.become(newIdentity(t, 1))
	ctx, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	certificates := serve.Certificates(s.folder)
	mux := http.NewServeMux()
	mux.Handle("/open", http.NotFoundHandler())
	mux.Handle("/known", certificates.Known(http.NotFoundHandler()))
	go func() { served <- serve.HTTP(ctx, s.addr, certificates, mux, time.Minute) }()
	t.Cleanup(func() {
		stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return s
}

// get returns the status of a page, and the serial number of the server's certificate.
func (s *secured) get(page string, config *tls.Config) (status int, serial int64, err error) {
	config.RootCAs = s.trust
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	var resp *http.Response
	for range 1000 {
		if resp, err = (&http.Client{Transport: transport}).Get("https://" + s.addr + page); !errors.Is(err, syscall.ECONNREFUSED) {
			break // or it is about to listen
		}
	}
	if err != nil {
		return 0, 0, err
	}
	return resp.StatusCode, resp.TLS.PeerCertificates[0].SerialNumber.Int64(), resp.Body.Close()
}

func TestCertificatesAreReadAnewForEachConnection(t *testing.T) {
	s := startSecured(t)
	if status, serial, err := s.get("/open", &tls.Config{}); status != 404 || serial != 1 {
		t.Errorf("status %d, certificate %d, %v", status, serial, err)
	}
	s.become(newIdentity(t, 2))
	if status, serial, err := s.get("/open", &tls.Config{}); status != 404 || serial != 2 {
		t.Errorf("after a change: status %d, certificate %d, %v", status, serial, err)
	}
	if _, _, err := s.get("/open", &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}); err == nil {
		t.Error("TLS 1.1 is spoken")
	}
}

func TestOnlyKnownClientsMayAskIfTheyHaveToBeKnown(t *testing.T) {
	s := startSecured(t)
	known, stranger := newIdentity(t, 3), newIdentity(t, 4)
	as := func(id identity) *tls.Config {
		pair, err := tls.X509KeyPair(id.cert, id.key)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{Certificates: []tls.Certificate{pair}}
	}
	if status, _, err := s.get("/known", &tls.Config{}); status != 404 {
		t.Errorf("while nobody has to be known: status %d, %v", status, err)
	}
	s.write("client-ca.crt", known.cert)
	for _, c := range []struct {
		who, page string
		config    *tls.Config
		want      int
	}{
		{"who is known", "/known", as(known), 404},
		{"nobody", "/known", &tls.Config{}, 403},
		{"nobody asks for what is open", "/open", &tls.Config{}, 404},
		{"a stranger, who does not get as far as to ask", "/known", as(stranger), 0},
	} {
		if status, _, err := s.get(c.page, c.config); status != c.want {
			t.Errorf("%s: status %d, %v; want %d", c.who, status, err, c.want)
		}
	}
}

func TestAFolderWithoutCertificatesIsAnErrorAtOnce(t *testing.T) {
	if err := serve.HTTP(t.Context(), "127.0.0.1:0", serve.Certificates(t.TempDir()), http.NotFoundHandler(), 0); err == nil {
		t.Error("it serves")
	}
}
