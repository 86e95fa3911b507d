package vaulttest

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// A Request is one that the server got, whatever it answered.
type Request struct {
	Method    string
	Path      string // without /v1/
	Query     string
	Namespace string // of the header
	Accessor  string // of the token it came with, if the server knows that
	Size      int    // of the body
	Time      time.Time
}

// record adds the request to the log.
func (s *Server) record(r *http.Request, size int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.expire(now)
	accessor := ""
	if t := s.tokens[tokenOf(r.Header)]; t != nil {
		accessor = t.accessor
	}
	s.requests = append(s.requests, Request{
		Method: r.Method, Path: strings.TrimPrefix(r.URL.Path, "/v1/"), Query: r.URL.RawQuery, Namespace: strings.Trim(r.Header.Get("X-Vault-Namespace"), "/"),
		Accessor: accessor, Size: size, Time: now,
	})
}

// Requests returns what the server got since the start or ResetRequests.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// ResetRequests forgets the requests, and counts logins from zero.
func (s *Server) ResetRequests() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests, s.logins = nil, 0
}

// Count returns the number of requests of the method to paths that begin with
// the prefix. An empty method or prefix means any.
func (s *Server) Count(method, prefix string) int {
	n := 0
	for _, r := range s.Requests() {
		if (method == "" || r.Method == method) && strings.HasPrefix(r.Path, prefix) {
			n++
		}
	}
	return n
}

// Logins returns the number of logins that succeeded since the start or
// ResetRequests.
func (s *Server) Logins() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.logins
}

// Leases returns the ids of the leases that are alive and whose id begins
// with the prefix, like "db/creds/".
func (s *Server) Leases(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(time.Now())
	var ids []string
	for id := range s.leases {
		if strings.HasPrefix(id, prefix) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// Tokens returns the accessors of the tokens that are alive, without the root
// token; that of a batch token is empty.
func (s *Server) Tokens() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.expire(time.Now())
	accessors := []string{}
	for _, t := range s.tokens {
		if !t.root {
			accessors = append(accessors, t.accessor)
		}
	}
	slices.Sort(accessors)
	return accessors
}

// TokensIssued returns how many tokens there ever were, without the root
// token.
func (s *Server) TokensIssued() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issued
}
