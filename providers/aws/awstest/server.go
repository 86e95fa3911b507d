package awstest

import (
	"cmp"
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
	Account string // that everything belongs to. Default: 123456789012
	Region  string // of calls at URL that no signature says one of. Default: us-east-1
	Listen  string // the address of URL. Default: 127.0.0.1:0
	// Pipe serves connections made by Server.Dial only, which have no network
	// below them, so that a testing/synctest bubble can wait for them.
	Pipe bool
}

// A Server is a piece of AWS. All methods may be called at any time from any
// goroutine.
type Server struct {
	URL    string // http://127.0.0.1:port, where every service is
	CAFile string // the CA certificate of the names that are served with TLS

	t        testing.TB
	options  Options
	ca       *trust.Authority
	plain    *pipe.Listener // connections of Dial
	secure   *pipe.Listener // the same, to become TLS
	services map[string]*service
	agent    *Agent
	answers  sync.RWMutex // held by each request until its answer

	mu      sync.Mutex
	regions map[string]*Region
	roles   map[string]Role         // by ARN
	keys    map[string]*credential  // by access key ID
	issuer  *signer                 // of service account tokens
	trusted map[string]trust.KeySet // by issuer
	denied  map[denial]bool
	calls   []*Call
}

// New starts a server, which ends with t.
func New(t testing.TB, opts *Options) *Server {
	t.Helper()
	if opts == nil {
		opts = &Options{}
	}
	s := &Server{
		t:       t,
		options: *opts,
		ca:      trust.NewAuthority(t, "awstest"),
		plain:   pipe.Listen("awstest:80"),
		secure:  pipe.Listen("awstest:443"),
		services: map[string]*service{
			"secretsmanager": secretsManager(),
			"AmazonSSM":      parameterStore(),
			"sts":            securityTokenService(),
		},
		regions: map[string]*Region{},
		roles:   map[string]Role{},
		keys:    map[string]*credential{},
		issuer:  newSigner(t),
		trusted: map[string]trust.KeySet{},
		denied:  map[denial]bool{},
	}
	s.options.Account = cmp.Or(opts.Account, "123456789012")
	s.options.Region = cmp.Or(opts.Region, "us-east-1")
	s.agent = &Agent{server: s, roles: map[string]string{}, off: map[string]bool{}, Faults: newFaults()}
	s.trusted[s.Issuer()] = s.issuer.public()
	s.CAFile = s.ca.File(t)
	s.listen(t)
	return s
}

// listen serves until t ends.
func (s *Server) listen(t testing.TB) {
	t.Helper()
	listeners := []net.Listener{s.plain, s.ca.Listen(s.secure)}
	s.URL = "http://127.0.0.1:4566"
	if !s.options.Pipe {
		tcp, err := net.Listen("tcp", cmp.Or(s.options.Listen, "127.0.0.1:0"))
		if err != nil {
			t.Fatalf("listen: %v", err)
		}
		listeners = append(listeners, tcp)
		s.URL = "http://" + tcp.Addr().String()
	}
	// What clients do to connections on purpose is nothing for a log.
	server := &http.Server{Handler: s, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	for _, listener := range listeners {
		serving.Go(func() { _ = server.Serve(listener) }) // ends with ErrServerClosed, by Close
	}
	t.Cleanup(func() {
		s.agent.Repair()
		s.change(func() {
			for _, r := range s.regions {
				r.Repair()
			}
		})
		_ = server.Close() // what is still open belongs to clients of a test that is over
		serving.Wait()
		s.answers.Lock() // the last request is answered
		defer s.answers.Unlock()
	})
}

// A Region is what AWS has there. Each region is on its own.
type Region struct {
	*Faults // of everything in the region, STS included

	server     *Server
	name       string
	secrets    map[string]*secret    // by name; guarded by server.mu
	parameters map[string]*parameter // by name; guarded by server.mu
}

// Region returns the region of that name, like eu-west-1, which is made when
// it is first named.
func (s *Server) Region(name string) *Region {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.regions[name]
	if r == nil {
		r = &Region{Faults: newFaults(), server: s, name: name, secrets: map[string]*secret{}, parameters: map[string]*parameter{}}
		s.regions[name] = r
	}
	return r
}

// do runs f as the operation of a caller who may do everything.
func (r *Region) do(operation string, f func(c *call) error) {
	r.server.t.Helper()
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	if err := f(&call{Region: r, now: time.Now()}); err != nil {
		r.server.t.Errorf("awstest: %s in %s: %v", operation, r.name, err)
	}
}

// arn returns an ARN in the region.
func (r *Region) arn(service, resource string) string {
	return "arn:" + partitionOf(r.name) + ":" + service + ":" + r.name + ":" + r.server.options.Account + ":" + resource
}
