package azure

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/pflag"

	"github.com/keymount/keymount/pkg/trace"
)

const (
	attemptTimeout = 10 * time.Second // of one request
	maxAnswer      = 8 << 20          // bytes of one answer; a secret has 25 KiB
)

// Options are what a class need not say. Proxies and certificate authorities
// are those of the environment (HTTPS_PROXY, SSL_CERT_FILE and so on). Nil is
// all defaults.
type Options struct {
	// Cloud is that of classes that name none. Default: AzurePublicCloud.
	Cloud string
	// EnvironmentFile describes AzureStackCloud for classes that name no file.
	// Default: the variable AZURE_ENVIRONMENT_FILEPATH.
	EnvironmentFile string
	// NoManagedIdentity refuses classes with useVMManagedIdentity: that identity
	// is the same for all pods of a node.
	NoManagedIdentity bool
	// KeepOrder leaves the certificates of a PKCS#12 file in its order, instead
	// of the one in which a server sends them.
	KeepOrder bool
	// SeparateFiles writes the certificate and the key of certificates also into
	// files of their own, <file>.crt and <file>.key, as an object can ask for.
	SeparateFiles bool
	// RefuseExpired fails instead of serving what has expired, with a warning.
	RefuseExpired bool
	// Rate is how many requests a second one vault gets, for all volumes.
	// Default: 50.
	Rate int
	// TokenProxy is how classes with useAzureTokenProxy get tokens.
	TokenProxy TokenProxy
	// Environment looks a variable up; os.Getenv does. Nil: none is set.
	Environment func(name string) string

	dial  dialer         // nil: the network
	roots *x509.CertPool // nil: those of the system
}

type (
	dialer func(ctx context.Context, network, address string) (net.Conn, error)
	proxy  func(*http.Request) (*url.URL, error)
)

// AddFlags adds the flags that set the options; what is set already is their
// default.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Cloud, "azure-cloud", o.Cloud, "cloud of azure classes that name none; empty: "+publicCloud)
	fs.StringVar(&o.EnvironmentFile, "azure-environment-file", o.EnvironmentFile,
		"file that describes "+stackCloud+" for azure classes that name none; empty: the variable "+environmentVariable)
	fs.BoolVar(&o.NoManagedIdentity, "azure-no-managed-identity", o.NoManagedIdentity,
		"refuse azure classes with the parameter useVMManagedIdentity, which is the same identity for all pods of a node")
	fs.BoolVar(&o.KeepOrder, "azure-keep-certificate-order", o.KeepOrder,
		"leave the certificates of PKCS#12 files in their order, instead of the leaf first, then its issuer and so on")
	fs.BoolVar(&o.SeparateFiles, "azure-separate-files", o.SeparateFiles,
		"write the certificate and the key of certificates also into files of their own, with .crt and .key after the name")
	fs.BoolVar(&o.RefuseExpired, "azure-refuse-expired", o.RefuseExpired,
		"fail instead of serving secrets, keys and certificates that have expired, with a warning")
	fs.IntVar(&o.Rate, "azure-vault-rate", o.Rate, "requests a second that one vault gets, for all volumes; 0: 50")
	o.TokenProxy.addFlags(fs)
}

// Files returns the files that a provider with these options reads, besides
// those that classes name.
func (o *Options) Files() []string {
	s, err := o.settings()
	if err != nil {
		return nil
	}
	files := []string{cmp.Or(o.TokenProxy.CAFile, clusterCA)}
	if s.EnvironmentFile != "" {
		files = append(files, s.EnvironmentFile)
	}
	return files
}

// settings are options with their defaults.
type settings struct {
	*Options
	http *http.Client // for vaults and Entra ID
	imds *http.Client // for the metadata service of the node, which no proxy reaches
}

// settings makes no request.
func (o *Options) settings() (settings, error) {
	if o == nil {
		o = &Options{}
	}
	own := *o
	if own.Environment == nil {
		own.Environment = func(string) string { return "" }
	}
	if own.EnvironmentFile == "" {
		own.EnvironmentFile = own.Environment(environmentVariable)
	}
	if own.Rate <= 0 {
		own.Rate = 50
	}
	s := settings{Options: &own, http: own.client("", own.roots, http.ProxyFromEnvironment), imds: own.client("", own.roots, nil)}
	if err := own.TokenProxy.check(); err != nil {
		return s, err
	}
	_, err := s.cloud(own.Cloud, "") // what is wrong with the flags is said at the start
	return s, err
}

// client returns an HTTP client that waits for an answer only so long, and
// follows no redirection: no service sends one, and who does wants a token. An
// empty name is that of the host.
func (o *Options) client(serverName string, roots *x509.CertPool, proxy proxy) *http.Client {
	dial := o.dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: attemptTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	transport := &http.Transport{
		Proxy: proxy, DialContext: dial, ForceAttemptHTTP2: true,
		TLSClientConfig:     &tls.Config{MinVersion: tls.VersionTLS12, ServerName: serverName, RootCAs: roots},
		TLSHandshakeTimeout: attemptTimeout, IdleConnTimeout: 90 * time.Second, MaxIdleConnsPerHost: maxParallel,
	}
	return &http.Client{
		Transport:     trace.Transport(&bounded{transport}),
		Timeout:       attemptTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// A bounded transport reads no more of an answer than one can have.
type bounded struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (b *bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.Transport.RoundTrip(req)
	if err == nil {
		resp.Body = struct {
			io.Reader
			io.Closer
		}{http.MaxBytesReader(nil, resp.Body, maxAnswer), resp.Body}
	}
	return resp, err
}
