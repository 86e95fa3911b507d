package azure

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"

	"github.com/spf13/pflag"

	"github.com/keymount/keymount/pkg/provider"
)

const (
	clusterURL = "https://kubernetes.default.svc.cluster.local"
	clusterCA  = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"
)

// A TokenProxy stands between pods and Entra ID where identities are bound to a
// cluster (AKS identity bindings).
type TokenProxy struct {
	URL    string // default: https://kubernetes.default.svc.cluster.local
	Name   string // the name that is asked for in TLS; without one there is no proxy
	CAFile string // of its certificate, read at each login. Default: that of the cluster
}

func (p *TokenProxy) addFlags(fs *pflag.FlagSet) {
	fs.StringVar(&p.URL, "azure-token-proxy-url", p.URL, "where azure classes with useAzureTokenProxy get tokens; empty: "+clusterURL)
	fs.StringVar(&p.Name, "azure-token-proxy-sni-name", p.Name, "server name of that proxy in TLS, which ends in .ests.aks; empty: there is none")
	fs.StringVar(&p.CAFile, "azure-token-proxy-ca", p.CAFile, "file with the certificate authority of that proxy; empty: "+clusterCA)
}

// address returns where the proxy is.
func (p *TokenProxy) address() (*url.URL, error) {
	u, err := url.Parse(cmp.Or(p.URL, clusterURL))
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("--azure-token-proxy-url is no https URL without user, query and fragment: %w", provider.ErrInvalid)
	}
	if u.Path == "" {
		u.Path = "/" // which JoinPath does not add
	}
	return u, nil
}

func (p *TokenProxy) check() error {
	_, err := p.address()
	return err
}

// throughProxy returns a client whose requests go to the token proxy, whatever
// they are for.
func (s *settings) throughProxy() (*http.Client, error) {
	if s.TokenProxy.Name == "" {
		return nil, fmt.Errorf("useAzureTokenProxy needs a token proxy: run the provider with --azure-token-proxy-sni-name: %w", provider.ErrInvalid)
	}
	to, err := s.TokenProxy.address()
	if err != nil {
		return nil, err
	}
	file := cmp.Or(s.TokenProxy.CAFile, clusterCA)
	text, err := os.ReadFile(file)
	roots := x509.NewCertPool()
	if err == nil && !roots.AppendCertsFromPEM(text) {
		err = errors.New("it holds no certificate")
	}
	if err != nil {
		return nil, fmt.Errorf("read the certificate authority of the token proxy, %s: %w: %w", file, err, provider.ErrUnavailable)
	}
	client := s.client(s.TokenProxy.Name, roots, nil)
	through := *client
	through.Transport = &redirected{client.Transport, client.CloseIdleConnections, to}
	return &through, nil
}

// A redirected transport sends all requests to one address. They keep the name of
// the host that they are for, as those of the SDK do.
type redirected struct {
	next      http.RoundTripper
	closeIdle func()
	to        *url.URL
}

// RoundTrip implements http.RoundTripper.
func (r *redirected) RoundTrip(req *http.Request) (*http.Response, error) {
	own := req.Clone(req.Context())
	own.URL = r.to.JoinPath(req.URL.EscapedPath())
	own.URL.RawQuery = req.URL.RawQuery
	return r.next.RoundTrip(own)
}

// CloseIdleConnections is what that of http.Client calls.
func (r *redirected) CloseIdleConnections() { r.closeIdle() }
