package awstest

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxBody is the longest request that is read.
const maxBody = 10_000_000

// A refusal is an error that a service answers.
type refusal struct {
	status        int
	code, message string
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

// refuse returns a refusal with status 400, which most have.
func refuse(code, format string, args ...any) error {
	return &refusal{http.StatusBadRequest, code, fmt.Sprintf(format, args...)}
}

// A service is a set of operations that are called in the same way.
type service struct {
	name       string // in signatures and in the names of actions
	operations map[string]operation
	write      func(w http.ResponseWriter, id, operation string, answer any)
	refuse     func(w http.ResponseWriter, id string, r *refusal)
	outage     *refusal
	// common returns how the service says what all services refuse.
	common func(*refusal) *refusal
}

// An operation is run with server.mu held.
type operation func(c *call, body []byte) (any, error)

// A call is an operation in progress.
type call struct {
	*Region
	service *service
	action  string
	by      *credential // nil: the test itself
	now     time.Time
}

// op returns the operation that decodes its input, and does that.
func op[In any](do func(*call, *In) (any, error)) operation {
	return func(c *call, body []byte) (any, error) {
		in := new(In)
		if err := decode(body, in); err != nil {
			return nil, c.service.said(err)
		}
		return do(c, in)
	}
}

// said returns an error as the service says it.
func (s *service) said(err error) error {
	var r *refusal
	if errors.As(err, &r) && s.common != nil {
		return s.common(r)
	}
	return err
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.answers.RLock()
	defer s.answers.RUnlock()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	id := uuid()
	w.Header().Set("X-Amzn-Requestid", id)
	at := endpointOf(r.Host)
	if r.URL.Path == agentPath || isAgent(r.Host) {
		s.agent.serve(w, r, id)
		return
	}
	to, action, input := s.route(r, body)
	if to == nil || at.service != "" && at.service != to.name {
		writeJSONRefusal(w, id, &refusal{http.StatusBadRequest, "UnknownOperationException", ""})
		return
	}
	s.serve(w, &request{Request: r, signedBody: body, input: input, id: id, at: at, to: to, action: action})
}

// A request is one whose service and operation are known.
type request struct {
	*http.Request
	signedBody []byte
	input      []byte // the same as JSON
	id         string
	at         endpoint
	to         *service
	action     string
}

// route returns whom a request is for, and the input as JSON.
func (s *Server) route(r *http.Request, body []byte) (to *service, action string, input []byte) {
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		name, action, _ := strings.Cut(target, ".")
		return s.services[name], action, body
	}
	form, err := url.ParseQuery(r.URL.RawQuery + "&" + string(body))
	if err != nil || !form.Has("Action") {
		return nil, "", nil
	}
	return s.services["sts"], form.Get("Action"), formInput(form)
}

// serve answers a request, and records it.
func (s *Server) serve(w http.ResponseWriter, r *request) {
	signed := signatureOf(r.Request)
	region := s.Region(cmp.Or(r.at.region, signed.region, s.options.Region))
	record := s.record(r.to.name+":"+r.action, region.name)
	if !region.wait(r.Request) {
		return
	}
	answer, err := s.answer(r, signed, region, record)
	if err == nil {
		r.to.write(w, r.id, r.action, answer)
		return
	}
	var refused *refusal
	if !errors.As(err, &refused) {
		refused = &refusal{http.StatusInternalServerError, "InternalFailure", err.Error()}
	}
	s.change(func() { record.Code = refused.code })
	r.to.refuse(w, r.id, refused)
}

// answer returns what the service says to a request.
func (s *Server) answer(r *request, signed signature, region *Region, record *Call) (any, error) {
	if region.isBroken() {
		return nil, r.to.outage
	}
	now := time.Now()
	c := &call{Region: region, service: r.to, action: r.action, now: now}
	if r.action != "AssumeRoleWithWebIdentity" {
		by, err := s.authenticate(r, signed, region.name, now)
		if by != nil {
			s.change(func() { record.Principal = by.arn })
		}
		if err != nil {
			return nil, r.to.said(err)
		}
		c.by = by
	}
	if err := region.fail(record.Operation); err != nil {
		return nil, err
	}
	do := r.to.operations[r.action]
	if do == nil {
		return nil, r.to.said(refuse("UnknownOperationException", "%s", r.action))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return do(c, r.input)
}
