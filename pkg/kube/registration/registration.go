// Package registration makes kubelet find the driver, without a sidecar: it
// serves the socket that kubelet's plugin watcher looks for, tells over it
// where the CSI socket is, and hears whether kubelet took the driver.
//
// Kubelet asks once when it sees the socket appear, and once when it starts
// anew. So the socket is made anew, after a while, when it is gone or when
// kubelet refused. Whether the CSI socket answers is not looked at here:
// kubelet calls it before it takes the driver.
package registration

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/serve"
)

// A Config says what kubelet is told, and where.
type Config struct {
	Dir      string   // kubelet's plugins_registry, as this process sees it
	Driver   string   // name of the driver, as in the CSIDriver object
	Endpoint string   // path of the CSI socket, as kubelet sees it
	Versions []string // of CSI, semantic; default: 1.0.0, which stands for all of CSI 1
}

func (c *Config) versions() []string {
	if len(c.Versions) == 0 {
		return []string{"1.0.0"}
	}
	return c.Versions
}

// validate returns what no later attempt can cure.
func (c *Config) validate() error {
	switch {
	case !filepath.IsAbs(c.Dir):
		return fmt.Errorf("registration folder %q is not an absolute path: name kubelet's plugins_registry", c.Dir)
	case c.Driver == "" || strings.Contains(c.Driver, "/"):
		return fmt.Errorf("driver name %q cannot be part of a socket's name: use the name of the CSIDriver object", c.Driver)
	case !filepath.IsAbs(c.Endpoint):
		return fmt.Errorf("CSI socket %q is not an absolute path: name it as kubelet sees it", c.Endpoint)
	}
	return nil
}

// Options adjust a Server.
type Options struct {
	// MinWait and MaxWait bound the time until the socket is made anew, which
	// doubles from one failure in a row to the next. Default: 1 s, 1 min.
	MinWait, MaxWait time.Duration
	// Poll is the time between two looks at the socket file where the kernel
	// tells of no change. Default: 30 s.
	Poll time.Duration
}

// wait returns the time until the socket is made anew, after so many failures
// before this one.
func (o *Options) wait(failures int) time.Duration {
	least, most := time.Second, time.Minute
	if o != nil && o.MinWait > 0 {
		least = o.MinWait
	}
	if o != nil && o.MaxWait > 0 {
		most = o.MaxWait
	}
	return min(least<<min(failures, 16), most)
}

func (o *Options) poll() time.Duration {
	if o == nil || o.Poll <= 0 {
		return 30 * time.Second
	}
	return o.Poll
}

var (
	errNotServing = errors.New("the registration socket is not served")
	errRefused    = errors.New("kubelet refused the driver")
)

// A Server registers one driver. Run runs once at a time; Registered is safe
// for concurrent use.
type Server struct {
	config Config
	opts   *Options
	path   string // of the socket

	mu       sync.Mutex
	state    error // nil: registered
	logged   error // what the log says of it
	failures int   // since it was registered last
}

// New returns a Server that does not serve yet.
func New(c Config, opts *Options) (*Server, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	path := filepath.Join(c.Dir, c.Driver+"-reg.sock")
	return &Server{config: c, opts: opts, path: path, state: errNotServing, logged: errNotServing}, nil
}

// Registered returns nil if kubelet's last word is that it took the driver,
// and otherwise why it has not. It asks nobody.
func (s *Server) Registered(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Run serves the socket until ctx ends, and then removes it. It returns an
// error, which wraps serve.ErrEndpoint, if nobody can ever listen on the path
// of the socket. Whatever may pass is tried again, logged when it changes, and
// told by Registered.
func (s *Server) Run(ctx context.Context) error {
	defer s.await(errNotServing)
	for ctx.Err() == nil {
		err := s.serve(ctx)
		switch {
		case errors.Is(err, serve.ErrEndpoint):
			return fmt.Errorf("register with kubelet: %w", err)
		case ctx.Err() == nil:
			s.note(err)
			s.pause(ctx)
		}
	}
	return nil
}

// pause waits until it is time for the next attempt.
func (s *Server) pause(ctx context.Context) {
	s.mu.Lock()
	wait := s.opts.wait(s.failures)
	s.failures++
	s.mu.Unlock()
	select {
	case <-time.After(wait):
	case <-ctx.Done():
	}
}

// await notes that kubelet has to answer, because of reason, before anything
// is known. A refusal stays known until then.
func (s *Server) await(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !errors.Is(s.state, errRefused) {
		s.state = reason
	}
}

// note notes that the driver is registered, or why not, and logs it unless
// that was logged last.
func (s *Server) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.logged
	s.state, s.logged = err, err
	switch {
	case err == nil:
		s.failures = 0
		if known != nil {
			klog.InfoS("Registered with kubelet", "driver", s.config.Driver, "socket", s.path, "endpoint", s.config.Endpoint)
		}
	case known == nil || known.Error() != err.Error():
		klog.ErrorS(err, "Not registered with kubelet", "driver", s.config.Driver, "socket", s.path)
	}
}
