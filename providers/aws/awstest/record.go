package awstest

// A Call is one that the server got, whatever it answered.
type Call struct {
	Operation string // like secretsmanager:GetSecretValue; that of the agent is eks-auth:AssumeRoleForPodIdentity
	Region    string // empty for the agent
	Principal string // ARN of who signed it, like arn:aws:sts::123456789012:assumed-role/shop/shop-web
	Code      string // of the error; empty if there was none, or no answer yet
}

// record adds a call to the log, which change can complete.
func (s *Server) record(operation, region string) *Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Call{Operation: operation, Region: region}
	s.calls = append(s.calls, c)
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
	calls := make([]Call, len(s.calls))
	for i, c := range s.calls {
		calls[i] = *c
	}
	return calls
}

// Count returns how many calls of an operation, like
// secretsmanager:GetSecretValue, there are in Calls.
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
func (s *Server) Forget() { s.change(func() { s.calls = nil }) }
