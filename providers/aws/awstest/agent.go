package awstest

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	agentPath      = "/v1/credentials"
	agentAudience  = "pods.eks.amazonaws.com"
	agentOperation = "eks-auth:AssumeRoleForPodIdentity"
)

// An Agent is that of EKS Pod Identity, which runs on each node of a cluster.
type Agent struct {
	*Faults                // of the agent; the operation is eks-auth:AssumeRoleForPodIdentity
	Lifetime time.Duration // of credentials; to be set before the first call. Default: 6 hours

	server *Server
	roles  map[string]string // ARN by subject; guarded by server.mu
	off    map[string]bool   // by address; guarded by server.mu
}

// Agent returns the agent.
func (s *Server) Agent() *Agent { return s.agent }

// Associate gives a service account a role, which Server.Role has made; an
// empty one takes it away.
func (a *Agent) Associate(namespace, serviceAccount, roleARN string) {
	a.server.change(func() { a.roles[subjectOf(namespace, serviceAccount)] = roleARN })
}

// Off refuses connections to the agent at its address of a family, ipv4 or
// ipv6, until On.
func (a *Agent) Off(family string) { a.setOff(family, true) }

// On ends what Off began.
func (a *Agent) On(family string) { a.setOff(family, false) }

func (a *Agent) setOff(family string, off bool) {
	a.server.t.Helper()
	address := map[string]string{"ipv4": agentIPv4, "ipv6": agentIPv6}[strings.ToLower(family)]
	if address == "" {
		a.server.t.Errorf("awstest: there is no family of addresses %q: it is ipv4 or ipv6", family)
	}
	a.server.change(func() { a.off[address] = off })
}

func (a *Agent) isOff(host string) (off bool) {
	a.server.change(func() { off = a.off[host] })
	return off
}

// isAgent reports whether the Host of a request is the agent's.
func isAgent(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	return host == agentIPv4 || host == agentIPv6
}

// serve answers a request for credentials.
func (a *Agent) serve(w http.ResponseWriter, r *http.Request, id string) {
	if r.URL.Path != agentPath {
		http.NotFound(w, r)
		return
	}
	s := a.server
	record := s.record(agentOperation, "")
	if !a.wait(r) {
		return
	}
	granted, err := a.grant(strings.TrimSpace(r.Header.Get("Authorization")), time.Now())
	var refused *refusal
	if errors.As(err, &refused) {
		s.change(func() { record.Code = refused.code })
		text := refused.message
		if refused.code != "" {
			fault := "client"
			if refused.status >= http.StatusInternalServerError {
				fault = "server"
			}
			text = fmt.Sprintf("[%s]: (%s): %s, fault: %s", id, refused.code, refused.message, fault)
		}
		http.Error(w, text, refused.status)
		return
	}
	s.change(func() { record.Principal = granted.arn })
	sendJSON(w, http.StatusOK, "application/json", map[string]string{
		"AccessKeyId": granted.id, "SecretAccessKey": granted.secret, "Token": granted.token,
		"AccountId": account(granted.arn), "Expiration": granted.expires.Format(time.RFC3339),
	})
}

// grant returns credentials for a token, or how the agent or EKS says that
// there are none.
func (a *Agent) grant(token string, now time.Time) (*credential, error) {
	if a.isBroken() {
		return nil, &refusal{http.StatusServiceUnavailable, "ServiceUnavailableException", "Service is unable to handle request."}
	}
	if token == "" {
		return nil, refuse("", "Service account token cannot be empty")
	}
	if err := a.fail(agentOperation); err != nil {
		return nil, err
	}
	s := a.server
	s.mu.Lock()
	defer s.mu.Unlock()
	claims, err := s.verifyToken(token, agentAudience, now)
	switch {
	case errors.Is(err, errMalformed):
		return nil, refuse("", "Service account token cannot be parsed: token is malformed")
	case errors.Is(err, errExpired):
		return nil, refuse("", "Service account token failed basic claim validations: token has invalid claims: token is expired")
	case err != nil:
		return nil, refuse("InvalidTokenException", "The token included in the request is invalid: %v", err)
	}
	role := a.roles[claims.Subject]
	_, known := s.roles[role]
	switch {
	case role == "":
		return nil, &refusal{http.StatusNotFound, "ResourceNotFoundException", "There is no pod identity association for " + claims.Subject}
	case !known:
		return nil, refuse("AccessDeniedException", "Unauthorized Exception! EKS does not have permissions to assume the associated role.")
	}
	life := a.Lifetime
	if life == 0 {
		life = 6 * time.Hour
	}
	pod := claims.Subject[strings.LastIndex(claims.Subject, ":")+1:]
	name := "eks-awstest-" + pod
	return s.session(role, name[:min(len(name), 27)]+"-"+uuid(), now.Add(life)), nil
}
