package vault

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"github.com/keymount/keymount/pkg/provider"
)

// A Product is a server with the Vault API. It says how classes spell their
// parameters, which audience tokens have, and how settings are called; on the
// wire the products are one.
type Product string

const (
	Vault   Product = "vault"
	OpenBao Product = "openbao"
)

// prefixes are those of a class's parameters; the first that is present counts.
func (p Product) prefixes() []string {
	if p == OpenBao {
		return []string{"bao", "openbao", "vault"}
	}
	return []string{"vault"}
}

// audience is that of service account tokens whose class names none.
func (p Product) audience() string { return string(p) }

// variables are the prefixes of environment variables; the first that is set counts.
func (p Product) variables() []string {
	if p == OpenBao {
		return []string{"BAO_", "VAULT_"}
	}
	return []string{"VAULT_"}
}

const (
	defaultAddress  = "https://127.0.0.1:8200"
	defaultTimeout  = time.Minute
	defaultRetries  = 2
	defaultPause    = 250 * time.Millisecond
	kubernetesMount = "kubernetes"
)

// Options are what a class need not say. A class that says otherwise wins; a
// flag wins over the environment. Nil is a server on this machine.
type Options struct {
	Address     string // URL: https, http, or unix:///path of a socket. Default: https://127.0.0.1:8200
	AuthMount   string // where classes of the kubernetes method log in. Default: kubernetes
	Namespace   string
	CACert      string // PEM file of certificate authorities; without it and CADirectory those of the system
	CADirectory string // of PEM files
	ServerName  string // that the server's certificate must have
	ClientCert  string // PEM file, together with ClientKey
	ClientKey   string
	SkipVerify  bool // for tests: anybody may pose as the server

	// Environment looks a variable up, such as VAULT_ADDR; os.Getenv does.
	// Nil: none is set. A token is never taken from there: all pods would
	// share it.
	Environment func(name string) string
}

// AddFlags adds the flags that set the options of the product; what is set
// already is their default.
func (o *Options) AddFlags(fs *pflag.FlagSet, product Product) {
	text := func(into *string, flag, usage string) {
		fs.StringVar(into, fmt.Sprintf("%s-%s", product, flag), *into, usage)
	}
	last := product.variables()[0]
	text(&o.Address, "addr", "URL of the "+string(product)+" server for classes that name none; empty: "+last+"ADDR, else "+defaultAddress)
	text(&o.AuthMount, "mount", "mount of the kubernetes auth method for classes that name none; empty: "+kubernetesMount)
	text(&o.Namespace, "namespace", "namespace of the server for classes that name none; empty: "+last+"NAMESPACE")
	text(&o.CACert, "tls-ca-cert", "PEM file of certificate authorities of the server; empty: "+last+"CACERT")
	text(&o.CADirectory, "tls-ca-directory", "folder of PEM files of certificate authorities of the server; empty: "+last+"CAPATH")
	text(&o.ServerName, "tls-server-name", "name that the server's certificate must have; empty: "+last+"TLS_SERVER_NAME, else the one in the URL")
	text(&o.ClientCert, "tls-client-cert", "PEM file of the certificate to show to the server; empty: "+last+"CLIENT_CERT")
	text(&o.ClientKey, "tls-client-key", "PEM file of its private key; empty: "+last+"CLIENT_KEY")
	fs.BoolVar(&o.SkipVerify, string(product)+"-tls-skip-verify", o.SkipVerify, "do not verify the server's certificate: anybody may pose as the server")
}

// settings are options with the environment and the defaults filled in.
type settings struct {
	endpoint
	namespace string
	authMount string
	timeout   time.Duration // of one attempt
	retries   int           // attempts after the first
	pause     time.Duration // before the second, at least
	dial      dialer        // nil: the network
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// settings returns what is true for classes of the product that say nothing.
func (o *Options) settings(product Product) (settings, error) {
	if o == nil {
		o = &Options{}
	}
	env := environment{product, o.Environment}
	s := settings{
		endpoint: endpoint{
			address:    cmp.Or(o.Address, env.get("ADDR"), defaultAddress),
			serverName: cmp.Or(o.ServerName, env.get("TLS_SERVER_NAME")),
			skipVerify: o.SkipVerify,
			files: files{
				caCert:      cmp.Or(o.CACert, env.get("CACERT")),
				caDirectory: cmp.Or(o.CADirectory, env.get("CAPATH")),
				clientCert:  cmp.Or(o.ClientCert, env.get("CLIENT_CERT")),
				clientKey:   cmp.Or(o.ClientKey, env.get("CLIENT_KEY")),
			},
			caBytes: env.get("CACERT_BYTES"),
		},
		namespace: cmp.Or(o.Namespace, env.get("NAMESPACE")),
		authMount: cmp.Or(o.AuthMount, kubernetesMount),
		timeout:   defaultTimeout,
		retries:   defaultRetries,
		pause:     defaultPause,
	}
	err := env.parse("SKIP_VERIFY", func(text string) (err error) {
		skip, err := strconv.ParseBool(text)
		s.skipVerify = s.skipVerify || skip
		return err
	})
	if err == nil {
		err = env.parse("CLIENT_TIMEOUT", func(text string) (err error) {
			s.timeout, err = parseSeconds(text)
			return err
		})
	}
	if err == nil {
		err = env.parse("MAX_RETRIES", func(text string) (err error) {
			s.retries, err = strconv.Atoi(text)
			if s.retries < 0 {
				return errRange
			}
			return err
		})
	}
	return s, err
}

// Files returns the files and folders that a provider with these options reads,
// besides those that classes name.
func (o *Options) Files(product Product) []string {
	s, err := o.settings(product)
	if err != nil {
		return nil
	}
	return slices.DeleteFunc([]string{s.caCert, s.caDirectory, s.clientCert, s.clientKey}, func(name string) bool { return name == "" })
}

// environment looks variables of a product up.
type environment struct {
	product Product
	lookup  func(string) string
}

// get returns the variable of that name, whichever prefix it is set under.
func (e environment) get(name string) string {
	if e.lookup == nil {
		return ""
	}
	for _, prefix := range e.product.variables() {
		if value := e.lookup(prefix + name); value != "" {
			return value
		}
	}
	return ""
}

// parse calls into with the variable, if it is set.
func (e environment) parse(name string, into func(text string) error) error {
	text := e.get(name)
	if text == "" {
		return nil
	}
	if into(text) != nil {
		return fmt.Errorf("environment variable %s%s has a value that cannot be parsed: %w", e.product.variables()[0], name, provider.ErrInvalid)
	}
	return nil
}

var errRange = errors.New("out of range")

// parseSeconds reads a duration, or a number of seconds.
func parseSeconds(text string) (time.Duration, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err == nil && (n < 0 || n > maxSeconds) {
		return 0, errRange
	}
	if err == nil {
		return seconds(n), nil
	}
	d, err := time.ParseDuration(text)
	if d < 0 {
		return 0, errRange
	}
	return d, err
}
