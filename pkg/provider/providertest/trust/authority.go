// Package trust is what servers in memory are trusted by, and what they trust:
// an authority that certifies them under every name, and the keys of issuers of
// tokens.
package trust

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
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// An Authority signs a certificate for each name that a client asks for. It is
// safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey // of the authority, and of every name

	mu     sync.Mutex
	served map[string]*tls.Certificate // by name
}

// NewKey returns a key on P-256.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make a key: %v", err)
	}
	return key
}

// NewAuthority returns an authority of a name.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	a := &Authority{key: NewKey(t), served: map[string]*tls.Certificate{}}
	a.cert = &x509.Certificate{IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := a.sign(a.cert, name)
	if err != nil {
		t.Fatalf("make the CA: %v", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatalf("make the CA: %v", err)
	}
	return a
}

// sign returns the certificate, valid for ten years from an hour ago.
func (a *Authority) sign(template *x509.Certificate, name string) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 159))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	template.SerialNumber, template.Subject = serial, pkix.Name{CommonName: name}
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.AddDate(10, 0, 0)
	return x509.CreateCertificate(rand.Reader, template, a.cert, a.key.Public(), a.key)
}

// Listen returns a listener whose connections are TLS.
func (a *Authority) Listen(inner net.Listener) net.Listener {
	return tls.NewListener(inner, &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: a.serve})
}

// serve returns the certificate of the name that a client asks for.
func (a *Authority) serve(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if hello.ServerName == "" {
		return nil, errors.New("the client asks for no name")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if cert := a.served[hello.ServerName]; cert != nil {
		return cert, nil
	}
	der, err := a.sign(&x509.Certificate{
		DNSNames: []string{hello.ServerName}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, "")
	if err != nil {
		return nil, err
	}
	cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
	a.served[hello.ServerName] = cert
	return cert, nil
}

// File puts the certificate into a file of t, and returns its name.
func (a *Authority) File(t testing.TB) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}), 0o600); err != nil {
		t.Fatalf("write the CA: %v", err)
	}
	return file
}

// Pool returns the authority as one to trust.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}
