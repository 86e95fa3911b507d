package vault

import (
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
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/vault/vaulttest"
)

// An authority signs certificates.
type authority struct {
	t           *testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t}
	cert, key := a.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.pem, a.key = cert, key
	return a
}

// sign returns a certificate in PEM and its key. The first is its own issuer.
func (a *authority) sign(template *x509.Certificate) ([]byte, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	issuer, signer := a.certificate, a.key
	if issuer == nil {
		issuer, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.certificate == nil {
		a.certificate, _ = x509.ParseCertificate(der)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key
}

// pair writes a certificate and its key into a folder.
func (a *authority) pair(dir string, template *x509.Certificate) (certFile, keyFile string) {
	a.t.Helper()
	cert, key := a.sign(template)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	replaceFile(a.t, certFile, cert)
	replaceFile(a.t, keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	return certFile, keyFile
}

// replaceFile replaces a file as a mounted Secret does: by another one.
func replaceFile(t *testing.T, name string, text []byte) {
	t.Helper()
	if err := os.WriteFile(name+".new", text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// secured is a server that wants client certificates.
type secured struct {
	*vaulttest.Server
	url    string
	client string // common name of the client that was seen last
}

func newSecured(t *testing.T, server, clients *authority) *secured {
	t.Helper()
	s := &secured{Server: vaulttest.New(t, nil)}
	s.KV1("kv").Put("x", map[string]any{"k": "v"})
	certFile, keyFile := server.pair(t.TempDir(), &x509.Certificate{DNSNames: []string{"vault.example"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	front := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.client = r.TLS.PeerCertificates[0].Subject.CommonName
		s.ServeHTTP(w, r)
	}))
	pool := x509.NewCertPool()
	pool.AddCert(clients.certificate)
	front.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12}
	front.StartTLS()
	t.Cleanup(front.Close)
	s.url = front.URL
	return s
}

// read reads kv/x with parameters for the connection.
func (s *secured) read(t *testing.T, p *Provider, parameters map[string]string) error {
	t.Helper()
	req := ask(Vault, parameters)
	byToken(vaulttest.RootToken)(req)
	req.Parameters["objects"] = "- {objectName: a, secretPath: kv/x, secretKey: k}"
	_, err := p.Fetch(t.Context(), req)
	return err
}

func TestTLSIsVerifiedOnBothSides(t *testing.T) {
	servers, clients, others := newAuthority(t, "servers"), newAuthority(t, "clients"), newAuthority(t, "others")
	s := newSecured(t, servers, clients)
	folder := t.TempDir()
	replaceFile(t, filepath.Join(folder, "a.pem"), others.pem)
	replaceFile(t, filepath.Join(folder, "b.pem"), servers.pem)
	ca, wrong, broken := filepath.Join(folder, "b.pem"), filepath.Join(folder, "a.pem"), filepath.Join(t.TempDir(), "broken")
	replaceFile(t, broken, []byte("c4n4ry"))
	crt, key := clients.pair(t.TempDir(), &x509.Certificate{Subject: pkix.Name{CommonName: "node-1"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	foreignCrt, foreignKey := others.pair(t.TempDir(), &x509.Certificate{Subject: pkix.Name{CommonName: "node-1"}})
	for _, c := range []struct {
		name string
		tls  map[string]string
		want error
	}{
		{"a file of authorities", map[string]string{"vaultCACertPath": ca}, nil},
		{"a folder of authorities", map[string]string{"vaultCADirectory": folder}, nil},
		{"the name of the server", map[string]string{"vaultCACertPath": ca, "vaultTLSServerName": "vault.example"}, nil},
		{"nobody is asked who they are", map[string]string{"vaultSkipTLSVerify": "true"}, nil},
		{"the authorities of the system", nil, provider.ErrUnavailable},
		{"another authority", map[string]string{"vaultCACertPath": wrong}, provider.ErrUnavailable},
		{"another name", map[string]string{"vaultCACertPath": ca, "vaultTLSServerName": "other.example"}, provider.ErrUnavailable},
		{"a file that is not there", map[string]string{"vaultCACertPath": folder + "/no"}, provider.ErrInvalid},
		{"a file with nothing in it", map[string]string{"vaultCACertPath": broken}, provider.ErrInvalid},
		{"a folder that is empty", map[string]string{"vaultCADirectory": t.TempDir()}, provider.ErrInvalid},
		{"another client", map[string]string{"vaultCACertPath": ca, "vaultTLSClientCertPath": foreignCrt, "vaultTLSClientKeyPath": foreignKey}, provider.ErrUnavailable},
		{"a key that is none", map[string]string{"vaultCACertPath": ca, "vaultTLSClientKeyPath": broken}, provider.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newProvider(t, Vault, &Options{Address: s.url, ClientCert: crt, ClientKey: key})
			err := s.read(t, p, c.tls)
			if !errors.Is(err, c.want) || err != nil && strings.Contains(err.Error(), "c4n4ry") {
				t.Errorf("error %v, want %v", err, c.want)
			}
			if err == nil && s.client != "node-1" {
				t.Errorf("the server saw the client %q", s.client)
			}
		})
	}
}

func TestCertificatesOnDiskMayBeReplaced(t *testing.T) {
	servers, clients := newAuthority(t, "servers"), newAuthority(t, "clients")
	s := newSecured(t, servers, clients)
	dir := t.TempDir()
	ca := filepath.Join(dir, "ca.pem")
	replaceFile(t, ca, servers.pem)
	node := func(name string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	}
	crt, key := clients.pair(dir, node("before"))
	p := newProvider(t, Vault, &Options{Address: s.url, CACert: ca, ClientCert: crt, ClientKey: key})
	if err := s.read(t, p, nil); err != nil || s.client != "before" {
		t.Fatalf("client %q, error %v", s.client, err)
	}
	clients.pair(dir, node("after"))
	if err := s.read(t, p, nil); err != nil || s.client != "after" {
		t.Errorf("after the certificate was replaced: client %q, error %v", s.client, err)
	}
	replaceFile(t, ca, []byte("half a cert"))
	if err := s.read(t, p, nil); err != nil {
		t.Errorf("while the authorities are replaced: %v", err)
	}
	replaceFile(t, ca, newAuthority(t, "others").pem)
	if err := s.read(t, p, nil); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("after the authorities were replaced: error %v, want ErrUnavailable", err)
	}
}

func TestASocketIsAnAddress(t *testing.T) {
	s := vaulttest.New(t, nil)
	s.KV1("kv").Put("x", map[string]any{"k": "v"})
	dir, err := os.MkdirTemp("", "v")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	lis, err := net.Listen("unix", filepath.Join(dir, "agent.sock"))
	if err != nil {
		t.Fatal(err)
	}
	front := &httptest.Server{Listener: lis, Config: &http.Server{Handler: s, ReadHeaderTimeout: time.Second}}
	front.Start()
	t.Cleanup(front.Close)
	p := newProvider(t, Vault, nil)
	if err := (&secured{}).read(t, p, map[string]string{"vaultAddress": "unix://" + filepath.Join(dir, "agent.sock")}); err != nil {
		t.Error(err)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	p := newProvider(t, Vault, nil)
	for range 2 * maxConnections {
		p.connections.to(endpoint{address: "https://" + rand.Text()}, nil)
	}
	if got := len(p.connections.pools); got != maxConnections {
		t.Errorf("%d connections are kept, want %d", got, maxConnections)
	}
}
