package vaulttest

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// faults are what is wrong with the server on purpose.
type faults struct {
	mu      sync.Mutex
	fails   []*failure
	raw     map[string]http.HandlerFunc
	waiting chan struct{} // closed once a call waits; nil unless it hangs
	waits   bool          // waiting is closed
	release chan struct{} // closed when the hanging ends
}

// A failure is what Fail said.
type failure struct {
	left   int
	status int
	header http.Header
	paths  []string
}

func (f *faults) init() { f.raw = map[string]http.HandlerFunc{} }

// Break makes every connection fail, as if the server's process were gone,
// until Repair.
func (s *Server) Break() { s.listener.setBroken(true) }

// Repair ends what Break, Hang and Fail began.
func (s *Server) Repair() {
	s.listener.setBroken(false)
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.fails = nil
	s.faults.letGo()
}

// Hang makes the server take calls and not answer them, until Repair or the
// end of the test. The channel is closed once a call waits.
func (s *Server) Hang() (waiting <-chan struct{}) {
	f := &s.faults
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.release == nil {
		f.waiting, f.release, f.waits = make(chan struct{}), make(chan struct{}), false
	}
	return f.waiting
}

// Fail answers the next n requests with the status, and with the header if it
// is not nil: those to the paths and below them, if any is given. A negative n
// means all until Repair.
func (s *Server) Fail(n, status int, header http.Header, paths ...string) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.fails = append(s.faults.fails, &failure{n, status, header, paths})
}

// Respond leaves requests to the path ("secret/data/db", without a query) to
// the handler; to nil, to the server again. See Raw.
func (s *Server) Respond(path string, handler http.HandlerFunc) {
	s.faults.mu.Lock()
	defer s.faults.mu.Unlock()
	s.faults.raw[path] = handler
}

// Raw answers with the bytes as they are. Each header is "Name: value".
func Raw(status int, body string, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for _, header := range headers {
			name, value, _ := strings.Cut(header, ": ")
			w.Header().Set(name, value)
		}
		w.WriteHeader(status)
		fmt.Fprint(w, body)
	}
}

// serve answers the request if something is wrong.
func (f *faults) serve(w http.ResponseWriter, r *http.Request, path string) bool {
	if hang := f.wait(); hang != nil {
		select {
		case <-hang:
		case <-r.Context().Done():
			return true
		}
	}
	f.mu.Lock()
	handler, fail := f.raw[path], f.fail(path)
	f.mu.Unlock()
	switch {
	case fail != nil:
		fail.write(w, path)
	case handler != nil:
		handler(w, r)
	default:
		return false
	}
	return true
}

// wait returns the channel that ends the hanging; nil if nothing hangs.
func (f *faults) wait() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.release == nil {
		return nil
	}
	if !f.waits {
		f.waits = true
		close(f.waiting)
	}
	return f.release
}

// fail returns the failure for the path, and counts it.
func (f *faults) fail(path string) *failure {
	for _, fail := range f.fails {
		if fail.left != 0 && fail.matches(path) {
			fail.left--
			return fail
		}
	}
	return nil
}

func (f *failure) matches(path string) bool {
	for _, other := range f.paths {
		if within(path, other) {
			return true
		}
	}
	return len(f.paths) == 0
}

func (f *failure) write(w http.ResponseWriter, path string) {
	for name, values := range f.header {
		w.Header()[http.CanonicalHeaderKey(name)] = values
	}
	text := strings.ToLower(http.StatusText(f.status))
	switch f.status {
	case http.StatusTooManyRequests:
		text = fmt.Sprintf("request path %q: rate limit quota exceeded", path)
	case http.StatusPreconditionFailed:
		text = "required index state not present"
	}
	refused(f.status, text).write(w)
}

// letGo ends the hanging. The caller holds mu.
func (f *faults) letGo() {
	if f.release != nil {
		close(f.release)
		f.release = nil
	}
}

// end lets go of every call for good.
func (f *faults) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.letGo()
}
