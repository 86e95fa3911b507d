package azuretest

import (
	"errors"
	"net/http"
	"strings"
)

// tokenProxySuffix is how the names of token proxies end.
const tokenProxySuffix = ".ests.aks"

// A request is one that a service answers and has recorded.
type request struct {
	*http.Request
	host   string // that the client means
	record *Call
	header http.Header // of the answer
	faults *Faults
	refuse func(*refusal) any // returns the body
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.answers.RLock()
	defer s.answers.RUnlock()
	w.Header().Set("X-Ms-Request-Id", uuid())
	host := hostname(r.Host)
	named := "" // in TLS
	if r.TLS != nil {
		named = hostname(r.TLS.ServerName)
	}
	_, _, isVault := s.vaultOf(host)
	cloud, isEntra := s.cloudOf(host)
	switch {
	case r.TLS == nil && host == imdsAddress:
		s.serveIMDS(w, r)
	case strings.HasSuffix(named, tokenProxySuffix):
		s.serveTokenProxy(w, r, named)
	case named != host:
		http.Error(w, "this connection is to "+named+", not to "+host, http.StatusMisdirectedRequest)
	case isVault:
		s.serveVault(w, r, host)
	case isEntra:
		s.serveEntra(w, r, host, cloud)
	default:
		http.NotFound(w, r)
	}
}

// answer does what a request asks for, unless something is wrong on purpose,
// and answers with what that returns.
func (s *Server) answer(w http.ResponseWriter, r *request, do func() (any, error)) {
	r.header = w.Header()
	if !r.faults.wait(r.Request) {
		return
	}
	err := r.faults.outage()
	var answer any
	if err == nil {
		answer, err = do()
	}
	status := http.StatusOK
	if err != nil {
		var refused *refusal
		if !errors.As(err, &refused) {
			refused = &refusal{status: http.StatusInternalServerError, code: "InternalServerError", message: err.Error()}
		}
		if refused.retryAfter != "" {
			w.Header().Set("Retry-After", refused.retryAfter)
		}
		status, answer = refused.status, r.refuse(refused)
		s.change(func() { r.record.Code = codeOf(refused) })
	}
	s.change(func() { r.record.Status = status })
	sendJSON(w, status, answer)
}

// codeOf returns what Calls says of an error: the number that Entra ID gives
// it, or its code.
func codeOf(r *refusal) string {
	if number := aadstsNumber.FindString(r.message); number != "" {
		return number
	}
	return r.code
}
