package azuretest

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const imdsToken = "imds/token"

// IMDS is the metadata service of a virtual machine.
type IMDS struct {
	*Faults // the operation is imds/token

	server *Server
}

// IMDS returns it.
func (s *Server) IMDS() *IMDS { return s.imds }

// Off refuses connections to it, until On.
func (m *IMDS) Off() { m.server.change(func() { m.server.offline = true }) }

// On ends what Off began.
func (m *IMDS) On() { m.server.change(func() { m.server.offline = false }) }

func (m *IMDS) isOff() (off bool) {
	m.server.change(func() { off = m.server.offline })
	return off
}

func (s *Server) serveIMDS(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/metadata/identity/oauth2/token" {
		http.NotFound(w, r)
		return
	}
	req := &request{
		Request: r, host: imdsAddress, faults: s.imds.Faults, record: s.record(imdsToken, imdsAddress, r.URL.Path),
		refuse: func(r *refusal) any { return object{"error": r.code, "error_description": r.message} },
	}
	s.answer(w, req, func() (any, error) {
		if err := s.imds.fail(imdsToken); err != nil {
			return nil, err
		}
		return s.machineToken(req)
	})
}

// machineToken returns a token of an identity of the machine.
func (s *Server) machineToken(r *request) (any, error) {
	query := r.URL.Query()
	resource := query.Get("resource")
	switch {
	case r.Method != http.MethodGet:
		return nil, refuse(http.StatusMethodNotAllowed, "invalid_request", "Method not allowed")
	case !strings.EqualFold(r.Header.Get("Metadata"), "true"):
		return nil, refuse(http.StatusBadRequest, "invalid_request", "Required metadata header not specified")
	case r.Header.Get("X-Forwarded-For") != "":
		return nil, refuse(http.StatusBadRequest, "invalid_request", "Requests must not contain the X-Forwarded-For header")
	case query.Get("api-version") != "2018-02-01":
		return nil, refuse(http.StatusBadRequest, "bad_request", "The api-version is invalid in the HTTP request")
	case resource == "":
		return nil, refuse(http.StatusBadRequest, "invalid_request", "Required query variable 'resource' is missing")
	}
	if !slices.ContainsFunc(s.clouds, func(c Cloud) bool { return c.resource() == strings.TrimSuffix(resource, "/") }) {
		return nil, refuse(http.StatusBadRequest, "invalid_resource", "%v", noResource(resource))
	}
	client, err := s.identityOf(query.Get("client_id"))
	if err != nil || query.Has("object_id") || query.Has("msi_res_id") || query.Has("mi_res_id") {
		return nil, refuse(http.StatusBadRequest, "invalid_request", "Identity not found")
	}
	s.change(func() { r.record.Client = client })
	now, life := time.Now(), cmp.Or(s.options.TokenLife, 24*time.Hour)
	seconds := strconv.Itoa(int(life/time.Second) - 1)
	return object{
		"token_type": "Bearer", "resource": resource, "client_id": client, "access_token": s.accessToken(client, strings.TrimSuffix(resource, "/"), now.Add(life)),
		"expires_in": seconds, "ext_expires_in": seconds, "not_before": strconv.FormatInt(epoch(now), 10), "expires_on": strconv.FormatInt(epoch(now.Add(life)), 10),
	}, nil
}

// identityOf returns the client ID of the machine's identity that is asked
// for, or of the first one if none is.
func (s *Server) identityOf(client string) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.machine, func(id string) bool { return client == "" || strings.EqualFold(id, client) })
	if at < 0 {
		return "", refuse(http.StatusBadRequest, "invalid_request", "Identity not found")
	}
	return strings.ToLower(s.machine[at]), nil
}
