package serve

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
)

// Certificates is a folder by which a server and its clients know each other:
// tls.crt and tls.key as in a Secret of the type kubernetes.io/tls, and
// client-ca.crt with the authorities of clients, if these have to be known. All
// are read anew for each connection, so that they can be replaced.
type Certificates string

// config returns an error if the folder cannot be used now.
func (c Certificates) config() (*tls.Config, error) {
	if _, err := c.current(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS12,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.current() },
	}, nil
}

// current returns the configuration of one connection.
func (c Certificates) current() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(c.file("tls.crt"), c.file("tls.key"))
	if err != nil {
		return nil, fmt.Errorf("certificate of the server in %s: %w", string(c), err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}
	text, err := os.ReadFile(c.file("client-ca.crt"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return config, nil
	case err != nil:
		return nil, err
	}
	config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.VerifyClientCertIfGiven
	if !config.ClientCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s has no certificate", c.file("client-ca.crt"))
	}
	return config, nil
}

func (c Certificates) file(name string) string { return filepath.Join(string(c), name) }

// Known returns a handler that refuses clients which are not known, if they
// have to be. Without a folder, or client-ca.crt in it, anybody may ask.
func (c Certificates) Known(next http.Handler) http.Handler {
	if c == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, err := os.Stat(c.file("client-ca.crt"))
		if !errors.Is(err, fs.ErrNotExist) && (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) {
			http.Error(w, "a certificate is required", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}
