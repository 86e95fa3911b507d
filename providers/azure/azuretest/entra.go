package azuretest

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Operations of Entra ID and of the token proxy.
const (
	entraInstance = "entra/instance"
	entraOpenID   = "entra/openid"
	entraToken    = "entra/token"
	proxyToken    = "proxy/token"
)

func entraOperations() []string { return []string{entraInstance, entraOpenID, entraToken, proxyToken} }

// Entra is the Entra ID of all clouds, and the token proxy.
type Entra struct {
	*Faults // the operations are entra/instance, entra/openid, entra/token and proxy/token
}

// Entra returns it.
func (s *Server) Entra() *Entra { return s.entra }

// aadstsNumber matches the number that Entra ID gives its errors.
var aadstsNumber = regexp.MustCompile(`AADSTS\d+`)

// aadsts returns an error of Entra ID.
func aadsts(status int, code string, number int, format string, args ...any) error {
	return refuse(status, code, "AADSTS%d: %s Trace ID: %s Correlation ID: %s Timestamp: %s",
		number, fmt.Sprintf(format, args...), uuid(), uuid(), time.Now().UTC().Format("2006-01-02 15:04:05Z"))
}

func entraRefusal(r *refusal) any {
	answer := object{
		"error": r.code, "error_description": r.message, "timestamp": time.Now().UTC().Format("2006-01-02 15:04:05Z"),
		"trace_id": uuid(), "correlation_id": uuid(),
	}
	if number, err := strconv.Atoi(strings.TrimPrefix(aadstsNumber.FindString(r.message), "AADSTS")); err == nil {
		answer["error_codes"] = []int{number}
	}
	return answer
}

// serveEntra answers a request to the authority of a cloud.
func (s *Server) serveEntra(w http.ResponseWriter, r *http.Request, host string, cloud Cloud) {
	tenant, page, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	var operation string
	var do func() (any, error)
	req := &request{Request: r, host: host, faults: s.entra.Faults, refuse: entraRefusal}
	switch {
	case r.Method == http.MethodGet && r.URL.Path == "/common/discovery/instance":
		operation, do = entraInstance, func() (any, error) { return s.instance(r.URL.Query(), cloud) }
	case r.Method == http.MethodGet && page == "v2.0/.well-known/openid-configuration":
		operation, do = entraOpenID, func() (any, error) { return s.openID(host, tenant) }
	case r.Method == http.MethodPost && page == "oauth2/v2.0/token":
		operation, do = entraToken, func() (any, error) { return s.login(req, cloud, tenant, "") }
	default:
		http.NotFound(w, r)
		return
	}
	s.serveLogin(w, req, operation, do)
}

// serveTokenProxy answers a request to the token proxy of the name, which
// knows the public cloud alone.
func (s *Server) serveTokenProxy(w http.ResponseWriter, r *http.Request, name string) {
	tenant, page, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	cloud := s.clouds[0]
	req := &request{Request: r, host: name, faults: s.entra.Faults, refuse: entraRefusal}
	switch {
	case r.Method == http.MethodGet && page == "v2.0/.well-known/openid-configuration":
		s.serveLogin(w, req, entraOpenID, func() (any, error) { return s.openID(cloud.Authority, tenant) })
	case r.Method == http.MethodPost && page == "oauth2/v2.0/token":
		s.serveLogin(w, req, proxyToken, func() (any, error) { return s.login(req, cloud, tenant, "api://AKSIdentityBinding") })
	default:
		http.NotFound(w, r)
	}
}

func (s *Server) serveLogin(w http.ResponseWriter, r *request, operation string, do func() (any, error)) {
	r.record = s.record(operation, r.host, r.URL.Path)
	s.answer(w, r, func() (any, error) {
		if err := s.entra.fail(operation); err != nil {
			return nil, err
		}
		return do()
	})
}

// instance says where an authority has its metadata, if it is known: one of
// the real clouds, or that which is asked itself.
func (s *Server) instance(query url.Values, asked Cloud) (any, error) {
	endpoint, err := url.Parse(query.Get("authorization_endpoint"))
	if err != nil || endpoint.Scheme != "https" || endpoint.Host == "" {
		return nil, aadsts(http.StatusBadRequest, "invalid_request", 90013, "Invalid input received from the user.")
	}
	known := realClouds()
	if !slices.ContainsFunc(known, func(c Cloud) bool { return c.Name == asked.Name }) {
		known = append(known, asked)
	}
	var metadata []object
	found := false
	for _, c := range known {
		metadata = append(metadata, object{"preferred_network": c.Authority, "preferred_cache": c.Authority, "aliases": c.names()})
		found = found || slices.Contains(c.names(), strings.ToLower(endpoint.Host))
	}
	if !found {
		return nil, aadsts(http.StatusBadRequest, "invalid_instance", 50049, "Unknown or invalid instance.")
	}
	tenant, _, _ := strings.Cut(strings.TrimPrefix(endpoint.Path, "/"), "/")
	return object{
		"tenant_discovery_endpoint": "https://" + endpoint.Host + "/" + tenant + "/v2.0/.well-known/openid-configuration",
		"api-version":               "1.1", "metadata": metadata,
	}, nil
}

// openID says where the tenant has what.
func (s *Server) openID(host, tenant string) (any, error) {
	if err := s.checkTenant(tenant, "invalid_tenant"); err != nil {
		return nil, err
	}
	base := "https://" + host + "/" + s.Tenant
	return object{
		"issuer": base + "/v2.0", "authorization_endpoint": base + "/oauth2/v2.0/authorize", "token_endpoint": base + "/oauth2/v2.0/token",
		"jwks_uri": base + "/discovery/v2.0/keys", "response_types_supported": []string{"code", "id_token"}, "subject_types_supported": []string{"pairwise"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_post", "private_key_jwt"}, "tenant_region_scope": "EU",
	}, nil
}

func (s *Server) checkTenant(tenant, code string) error {
	if strings.EqualFold(tenant, s.Tenant) {
		return nil
	}
	return aadsts(http.StatusBadRequest, code, 90002,
		"Tenant '%s' not found. Check to make sure you have the correct tenant ID and are signing into the correct cloud.", tenant)
}
