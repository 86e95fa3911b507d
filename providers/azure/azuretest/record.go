package azuretest

// A Call is a request that the server got, whatever it answered.
type Call struct {
	// Operation is one of a vault: challenge (a request without a token), or
	// get, list or versions of secrets, keys or certificates, like secrets/get;
	// or entra/instance, entra/openid, entra/token, imds/token or proxy/token.
	Operation string
	Host      string // like kv1.vault.azure.net
	Path      string
	Client    string // ID of the app whose token it is, or that asks for one; empty if nobody has proven to be one
	Status    int    // of the answer; 0 if there is none yet
	Code      string // of the error, like SecretNotFound or AADSTS700213; empty if there was none
}

// record adds a call to the log, which change can complete.
func (s *Server) record(operation, host, path string) *Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Call{Operation: operation, Host: host, Path: path}
	s.requests = append(s.requests, c)
	return c
}

func (s *Server) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// Calls returns what the server got since the start or Forget, in the order of
// arrival.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := make([]Call, len(s.requests))
	for i, c := range s.requests {
		calls[i] = *c
	}
	return calls
}

// Count returns how many calls of an operation, like secrets/get, there are in
// Calls.
func (s *Server) Count(operation string) int {
	n := 0
	for _, c := range s.Calls() {
		if c.Operation == operation {
			n++
		}
	}
	return n
}

// Forget empties Calls.
func (s *Server) Forget() { s.change(func() { s.requests = nil }) }
