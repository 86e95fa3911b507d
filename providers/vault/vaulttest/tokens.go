package vaulttest

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// defaultTTL is the time that the server grants to whom nothing is said about.
const defaultTTL = 768 * time.Hour

// A Grant is what a token may do, and for how long.
type Grant struct {
	TTL          time.Duration // zero: 768 h
	MaxTTL       time.Duration // zero: 768 h
	Period       time.Duration // not zero: the time of each renewal, without end
	NotRenewable bool
	Batch        bool // a batch token: it is neither renewed nor revoked
	// Allow lists paths that the token may use, with all below them, besides
	// what the default policy allows to every token. Nil means all paths
	// outside of sys and auth. sys/leases/revoke is in no default policy.
	Allow []string
	Deny  []string // wins over Allow and over the default policy
}

// A token is a token of the server.
type token struct {
	id, accessor, display string
	ns                    *Namespace
	path                  string // that made it
	entity                string
	meta                  map[string]string
	policies              []string
	grant                 Grant
	root                  bool
	issued, expires       time.Time
	ttl                   time.Duration // at the start
	renewal               func(c *call) *answer
}

// Token makes a token that the test itself holds, in this namespace.
func (n *Namespace) Token(g Grant) string {
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	t := &token{ns: n, path: "auth/token/create", display: "token", grant: g, policies: []string{"default", "test"}}
	n.server.issue(t, time.Now())
	return t.id
}

// RevokeToken ends the token of that id or accessor, with its leases.
func (s *Server) RevokeToken(idOrAccessor string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if t.id == idOrAccessor || t.accessor != "" && t.accessor == idOrAccessor {
			s.revokeToken(t)
		}
	}
}

// RevokeTokens ends every token but the root token, with their leases.
func (s *Server) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, t := range s.tokens {
		if !t.root {
			s.revokeToken(t)
		}
	}
}

// issue gives the token an id and a time.
func (s *Server) issue(t *token, now time.Time) {
	if t.issued = now; t.grant.Batch {
		t.issued = now.Truncate(time.Second) // it is written into the token
	}
	t.ttl = or(t.grant.Period, min(or(t.grant.TTL, defaultTTL), or(t.grant.MaxTTL, defaultTTL)))
	t.expires = t.issued.Add(t.ttl)
	if t.entity != "" {
		t.entity += t.ns.id
	}
	if t.grant.Batch {
		t.id = "b." + random(138)
	} else {
		t.id, t.accessor = "s."+random(24)+t.ns.id, random(24)+t.ns.id
	}
	s.tokens[t.id] = t
	s.issued++
}

func (t *token) over(now time.Time) bool { return !t.expires.IsZero() && !now.Before(t.expires) }

// revokeToken ends the token and what hangs on it.
func (s *Server) revokeToken(t *token) {
	delete(s.tokens, t.id)
	s.revokeLeases(func(l *lease) bool { return l.token == t })
}

// selfPaths are what a token may do in every namespace: path and operation.
var selfPaths = map[string]string{"auth/token/lookup-self": "read", "auth/token/renew-self": "update", "auth/token/revoke-self": "update"}

// defaultPolicy is what a token may do in its own namespace.
var defaultPolicy = map[string]string{
	"sys/leases/renew": "update", "sys/leases/lookup": "update", "sys/renew": "update", "sys/capabilities-self": "update", "sys/internal/ui/resultant-acl": "read",
}

// authorize returns the refusal of a call, or nil.
func (s *Server) authorize(c *call) *answer {
	switch {
	case c.token == nil:
		return refused(http.StatusForbidden, "permission denied")
	case strings.HasPrefix(c.full, "sys/internal/ui/mounts"): // looks at what the token may do itself
		return nil
	case !s.allows(c.token, c.ns, c.full, c.op):
		return c.logical(http.StatusForbidden, "permission denied")
	}
	return nil
}

// allows reports whether the token may do that at the path of the namespace.
func (s *Server) allows(t *token, n *Namespace, path, op string) bool {
	below, inside := strings.CutPrefix(n.path+path, t.ns.path)
	listed := func(other string) bool { return within(below, other) }
	denied := func(other string) bool { return within(n.path+path, other) }
	switch {
	case t.root:
		return true
	case slices.ContainsFunc(s.denied, denied), slices.ContainsFunc(t.grant.Deny, listed):
		return false
	case selfPaths[path] != "":
		return selfPaths[path] == op
	case !inside:
		return false
	case defaultPolicy[below] == op && op != "":
		return true
	case t.grant.Allow == nil:
		return !within(path, "sys") && !within(path, "auth")
	default:
		return slices.ContainsFunc(t.grant.Allow, listed)
	}
}

// sees reports whether the token may do anything at or below the mount.
func (s *Server) sees(t *token, n *Namespace, m *mount) bool {
	path := m.path
	switch m.kind {
	case "system", "token": // the default policy says something of both
		return true
	case "kubernetes", "jwt", "approle", "cert":
		path = "auth/" + path
	}
	if s.allows(t, n, path, "read") {
		return true
	}
	return slices.ContainsFunc(t.grant.Allow, func(prefix string) bool {
		return strings.HasPrefix(t.ns.path+prefix, n.path+path) && s.allows(t, n, strings.TrimPrefix(t.ns.path+prefix, n.path), "read")
	})
}

// selfService is auth/token, as far as a token may deal with itself.
type selfService struct{ s *Server }

func (e selfService) serve(c *call) *answer {
	switch {
	case c.path == "lookup-self" && (c.op == "read" || c.op == "update"):
		return found(c.token.lookup(c.now))
	case c.path == "renew-self" && c.op == "update":
		return e.renew(c)
	case c.path == "revoke-self" && c.op == "update":
		if c.token.grant.Batch {
			return refused(http.StatusBadRequest, "batch tokens cannot be revoked")
		}
		e.s.revokeToken(c.token)
		return done()
	case selfPaths["auth/token/"+c.path] != "":
		return c.unsupported()
	}
	return c.noPath()
}

func (e selfService) renew(c *call) *answer {
	t := c.token
	switch {
	case t.grant.Batch:
		return refused(http.StatusBadRequest, "batch tokens cannot be renewed")
	case t.root || t.grant.NotRenewable:
		return refused(http.StatusBadRequest, "lease is not renewable")
	}
	increment, bad := duration(c, "increment")
	if bad != nil {
		return bad
	}
	if t.renewal != nil {
		if bad = t.renewal(c); bad != nil {
			return bad
		}
	}
	a := &answer{status: http.StatusOK}
	ttl := t.grant.Period
	if ttl == 0 {
		var over bool
		if ttl, a.Warnings, over = capped(or(increment, t.grant.TTL, defaultTTL), or(t.grant.MaxTTL, defaultTTL), t.issued, c.now); over {
			return c.logical(http.StatusInternalServerError, pastMax)
		}
	}
	t.expires = c.now.Add(ttl)
	a.Auth = t.auth(ttl)
	return a
}

// An auth is a token as a login or renewal shows it, in the server's order.
type auth struct {
	ClientToken   string            `json:"client_token"`
	Accessor      string            `json:"accessor"`
	Policies      []string          `json:"policies"`
	TokenPolicies []string          `json:"token_policies"`
	Metadata      map[string]string `json:"metadata"`
	LeaseDuration int64             `json:"lease_duration"`
	Renewable     bool              `json:"renewable"`
	EntityID      string            `json:"entity_id"`
	TokenType     string            `json:"token_type"`
	Orphan        bool              `json:"orphan"`
	MFA           any               `json:"mfa_requirement"`
	NumUses       int               `json:"num_uses"`
}

func (t *token) auth(ttl time.Duration) *auth {
	return &auth{
		ClientToken: t.id, Accessor: t.accessor, Policies: t.policies, TokenPolicies: t.policies, Metadata: t.meta, LeaseDuration: seconds(ttl),
		Renewable: t.renewable(), EntityID: t.entity, TokenType: t.kind(), Orphan: t.orphan(),
	}
}

func (t *token) kind() string {
	if t.grant.Batch {
		return "batch"
	}
	return "service"
}

// orphan reports whether the token came of a login, and has no parent.
func (t *token) orphan() bool { return t.root || t.entity != "" }

func (t *token) renewable() bool { return !t.root && !t.grant.NotRenewable && !t.grant.Batch }

// lookup is the token as lookup-self shows it.
func (t *token) lookup(now time.Time) fields {
	f := fields{
		"accessor": t.accessor, "creation_time": t.issued.Unix(), "creation_ttl": seconds(t.ttl), "display_name": t.display, "entity_id": t.entity,
		"expire_time": nil, "explicit_max_ttl": 0, "id": t.id, "issue_time": t.issued.UTC().Format(time.RFC3339Nano), "meta": t.meta, "num_uses": 0,
		"orphan": t.orphan(), "path": t.path, "policies": t.policies, "renewable": t.renewable(), "ttl": 0, "type": t.kind(),
	}
	if !t.expires.IsZero() {
		f["expire_time"], f["ttl"] = t.expires.UTC().Format(time.RFC3339Nano), seconds(t.expires.Sub(now))
	}
	if t.grant.Period != 0 {
		f["period"] = seconds(t.grant.Period)
	}
	if t.ns.path != "" {
		f["namespace_path"] = t.ns.path
	}
	return f
}
