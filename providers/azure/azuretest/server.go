package azuretest

import (
	"cmp"
	"context"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider/providertest/pipe"
	"github.com/keymount/keymount/pkg/provider/providertest/trust"
)

// Options change what New makes. A nil *Options is fine.
type Options struct {
	Listen string // the address of ProxyURL. Default: 127.0.0.1:0
	// Pipe serves connections made by Server.Dial only, which have no network
	// below them, so that a testing/synctest bubble can wait for them.
	Pipe   bool
	Clouds []Cloud // besides the public one and those of the US government and China
	// PageSize is the number of items of a list that come at once, at most 25.
	// Default: 25.
	PageSize int
	// TokenLife is that of access tokens. Default: an hour; from IMDS, a day.
	TokenLife time.Duration
}

// maxPage is the most that a vault lists at once.
const maxPage = 25

// A Server is a piece of Azure, with one tenant. All methods may be called at
// any time from any goroutine.
type Server struct {
	Tenant   string // its ID
	ProxyURL string // http://127.0.0.1:port, a proxy to everything; empty with Options.Pipe
	CAFile   string // the CA certificate of the names that are served

	t       testing.TB
	options Options
	clouds  []Cloud
	ca      *trust.Authority
	plain   *pipe.Listener // connections of Dial
	secure  *pipe.Listener // the same, to become TLS
	tokens  *signer        // of access tokens
	issuer  *signer        // of service account tokens
	entra   *Entra
	imds    *IMDS
	answers sync.RWMutex // held by each request until its answer

	mu       sync.Mutex
	vaults   map[string]*Vault       // by name
	apps     map[string]App          // by client ID
	machine  []string                // client IDs
	trusted  map[string]trust.KeySet // by issuer
	offline  bool                    // IMDS refuses connections
	requests []*Call
}

// New starts a server, which ends with t.
func New(t testing.TB, opts *Options) *Server {
	t.Helper()
	if opts == nil {
		opts = &Options{}
	}
	s := &Server{
		Tenant:  uuid(),
		t:       t,
		options: *opts,
		clouds:  append(realClouds(), opts.Clouds...),
		ca:      trust.NewAuthority(t, "azuretest"),
		plain:   pipe.Listen("azuretest:80"),
		secure:  pipe.Listen("azuretest:443"),
		tokens:  newSigner(t),
		issuer:  newSigner(t),
		vaults:  map[string]*Vault{},
		apps:    map[string]App{},
		trusted: map[string]trust.KeySet{},
	}
	s.options.PageSize = min(cmp.Or(opts.PageSize, maxPage), maxPage)
	s.entra = &Entra{newFaults(t, entraOperations())}
	s.imds = &IMDS{newFaults(t, []string{imdsToken}), s}
	s.trusted[s.Issuer()] = s.issuer.public()
	s.CAFile = s.ca.File(t)
	s.listen(t)
	return s
}

// listen serves until t ends.
func (s *Server) listen(t testing.TB) {
	t.Helper()
	// What clients do to connections on purpose is nothing for a log.
	quiet := log.New(io.Discard, "", 0)
	server := &http.Server{Handler: s, ErrorLog: quiet, ReadHeaderTimeout: time.Minute}
	ctx, end := context.WithCancel(context.Background())
	leading := &proxy{server: s, ctx: ctx}
	proxies := &http.Server{Handler: leading, ErrorLog: quiet, ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	for _, listener := range []net.Listener{s.plain, s.ca.Listen(s.secure)} {
		serving.Go(func() { _ = server.Serve(listener) }) // ends with ErrServerClosed, by Close
	}
	if !s.options.Pipe {
		tcp, err := net.Listen("tcp", cmp.Or(s.options.Listen, "127.0.0.1:0"))
		if err != nil {
			t.Fatalf("listen: %v", err)
		}
		s.ProxyURL = "http://" + tcp.Addr().String()
		serving.Go(func() { _ = proxies.Serve(tcp) })
	}
	t.Cleanup(func() {
		s.repair()
		end()
		_ = proxies.Close()
		_ = server.Close() // what is still open belongs to clients of a test that is over
		serving.Wait()
		leading.led.Lock() // the last connection is ended,
		defer leading.led.Unlock()
		s.answers.Lock() // and the last request is answered
		defer s.answers.Unlock()
	})
}

// repair ends all faults.
func (s *Server) repair() {
	s.entra.Repair()
	s.imds.Repair()
	s.change(func() {
		for _, v := range s.vaults {
			v.Repair()
		}
	})
}
