package vault

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-retryablehttp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/trace"
)

// An endpoint is a server and how to tell that it is the right one. Equal
// endpoints share a pool of connections.
type endpoint struct {
	address    string
	serverName string
	skipVerify bool
	files
	caBytes     string // PEM
	certificate string // fingerprint of one that the class brings itself, instead of a file
}

// files are on the provider's own disk, and may be replaced at any time.
type files struct {
	caCert, caDirectory   string
	clientCert, clientKey string
}

// check returns what is wrong with an endpoint before anything is asked of it.
func (e *endpoint) check() error {
	u, err := url.Parse(e.address)
	switch {
	case err != nil, u.User != nil, u.RawQuery != "", u.Fragment != "":
		return errors.New("the address must be a URL such as https://vault.example:8200")
	case u.Scheme == "unix" && u.Host == "" && u.Path != "":
	case (u.Scheme != "https" && u.Scheme != "http") || u.Host == "":
		return fmt.Errorf("the address %q must be a URL such as https://vault.example:8200", e.address)
	}
	if (e.clientCert == "") != (e.clientKey == "") {
		return errors.New("a client certificate needs its key, and a key its certificate")
	}
	return nil
}

// stamp tells one state of the files from the next.
func (f files) stamp() string {
	var b strings.Builder
	for _, name := range append([]string{f.caCert, f.clientCert, f.clientKey}, f.authorities()...) {
		if info, err := os.Stat(name); err == nil {
			inode := info.Sys().(*syscall.Stat_t).Ino //nolint:forcetypeassert // on every Unix
			fmt.Fprintf(&b, "%q %d %d %d\n", name, inode, info.Size(), info.ModTime().UnixNano())
		}
	}
	return b.String()
}

// authorities returns the files of the folder; links lead elsewhere in a
// mounted ConfigMap.
func (f files) authorities() []string {
	if f.caDirectory == "" {
		return nil
	}
	names, _ := filepath.Glob(filepath.Join(f.caDirectory, "*"))
	return names
}

// A connection is a pool of connections to one endpoint. It is safe for
// concurrent use.
type connection struct {
	endpoint
	own      *tls.Certificate // that a class brings itself
	settings settings
	mounts   mounts

	mu      sync.Mutex
	current *retryablehttp.Client
	stamped string
	base    *url.URL
}

// client returns the HTTP client, made anew if certificates on disk have
// changed. Files that are broken for a moment, while they are replaced, leave
// the client as it was.
func (c *connection) client() (*retryablehttp.Client, *url.URL, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stamp := c.stamp()
	if c.current != nil && c.stamped == stamp {
		return c.current, c.base, nil
	}
	fresh, err := c.build()
	switch {
	case err != nil && c.current == nil:
		return nil, nil, fmt.Errorf("server %s: %w: %w", c.address, err, provider.ErrInvalid)
	case err != nil:
		return c.current, c.base, nil
	}
	c.closeIdle()
	c.current, c.stamped = fresh, stamp
	return c.current, c.base, nil
}

// closeIdle closes the connections that nobody uses.
func (c *connection) closeIdle() {
	if c.current != nil {
		c.current.HTTPClient.CloseIdleConnections()
	}
}

// close is closeIdle, for who does not hold c.mu.
func (c *connection) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeIdle()
}

func (c *connection) build() (*retryablehttp.Client, error) {
	config, err := c.tlsConfig()
	if err != nil {
		return nil, err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = config
	transport.MaxIdleConnsPerHost = 16
	if c.settings.dial != nil {
		transport.DialContext = c.settings.dial
	}
	if c.base, err = url.Parse(c.address); err != nil {
		return nil, err
	}
	if c.base.Scheme == "unix" {
		socket := c.base.Path
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}
		c.base = &url.URL{Scheme: "http", Host: "localhost"}
	}
	return &retryablehttp.Client{
		HTTPClient:   &http.Client{Transport: trace.Transport(transport), Timeout: c.settings.timeout, CheckRedirect: redirect},
		RetryMax:     c.settings.retries,
		RetryWaitMin: c.settings.pause,
		RetryWaitMax: 4 * c.settings.pause,
		CheckRetry:   retry,
		Backoff:      retryablehttp.RateLimitLinearJitterBackoff,
		ErrorHandler: retryablehttp.PassthroughErrorHandler,
	}, nil
}

// redirect follows one redirection, as a standby gives, if it keeps the
// request as it is and does not give up encryption.
func redirect(next *http.Request, via []*http.Request) error {
	first := via[0]
	if len(via) > 1 || next.Method != first.Method || first.URL.Scheme == "https" && next.URL.Scheme != "https" {
		return http.ErrUseLastResponse
	}
	return nil
}

func (c *connection) tlsConfig() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.serverName, InsecureSkipVerify: c.skipVerify} //nolint:gosec // who sets it is told
	var err error
	if config.RootCAs, err = c.roots(); err != nil {
		return nil, err
	}
	switch {
	case c.own != nil:
		config.Certificates = []tls.Certificate{*c.own}
	case c.clientCert != "":
		pair, err := tls.LoadX509KeyPair(c.clientCert, c.clientKey)
		if err != nil {
			return nil, fmt.Errorf("the client certificate %q and its key cannot be read", c.clientCert)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

// roots returns the authorities that may vouch for the server; nil for those
// of the system.
func (c *connection) roots() (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	switch {
	case c.caCert != "":
		text, err := os.ReadFile(c.caCert)
		if err != nil || !pool.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("the file of certificate authorities %q has none that can be read", c.caCert)
		}
	case c.caBytes != "":
		if !pool.AppendCertsFromPEM([]byte(c.caBytes)) {
			return nil, errors.New("the certificate authorities of the environment cannot be read")
		}
	case c.caDirectory != "":
		found := false
		for _, name := range c.authorities() {
			text, err := os.ReadFile(name)
			found = err == nil && pool.AppendCertsFromPEM(text) || found
		}
		if !found {
			return nil, fmt.Errorf("the folder of certificate authorities %q has none that can be read", c.caDirectory)
		}
	default:
		return nil, nil
	}
	return pool, nil
}

// maxConnections bounds how many endpoints are kept in mind; classes name them.
const maxConnections = 256

// connections are the pools by endpoint.
type connections struct {
	settings settings
	mu       sync.Mutex
	pools    map[endpoint]*connection
}

// to returns the connection to an endpoint.
func (c *connections) to(e endpoint, own *tls.Certificate) *connection {
	c.mu.Lock()
	defer c.mu.Unlock()
	if known, ok := c.pools[e]; ok {
		return known
	}
	if len(c.pools) >= maxConnections {
		for other, pool := range c.pools {
			pool.close()
			delete(c.pools, other)
			break
		}
	}
	fresh := &connection{endpoint: e, own: own, settings: c.settings}
	c.pools[e] = fresh
	return fresh
}

// close closes the connections that nobody uses.
func (c *connections) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pool := range c.pools {
		pool.close()
	}
}

// tidyTimeout bounds calls that nobody waits for.
const tidyTimeout = 10 * time.Second
