package awstest

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"strings"
	"time"
)

// A Role is an IAM role: who may assume it, and for how long.
type Role struct {
	Subjects   []string // of web identities, like system:serviceaccount:shop:web. Nil: any
	Audience   string   // of web identities. Default: sts.amazonaws.com
	Principals []string // ARNs of roles and users that may AssumeRole
	ExternalID string   // what they must know. Empty: anything
	// Lifetime is how long its credentials live if who assumes it does not say,
	// and the longest that may be said. Default: an hour.
	Lifetime time.Duration
}

func (r Role) audience() string {
	if r.Audience == "" {
		return "sts.amazonaws.com"
	}
	return r.Audience
}

func (r Role) lifetime() time.Duration {
	if r.Lifetime == 0 {
		return time.Hour
	}
	return r.Lifetime
}

// Role makes a role, or changes it. Nobody can assume what is not made.
func (s *Server) Role(arn string, role Role) { s.change(func() { s.roles[arn] = role }) }

// A denial is what a role must not do.
type denial struct{ role, action, resource string }

// Deny forbids a role, or a user of AccessKey, an action like
// secretsmanager:GetSecretValue on a secret or parameter of that name, in all
// regions; an empty name is all of them.
func (s *Server) Deny(arn, action, name string) {
	s.change(func() { s.denied[denial{arn, action, name}] = true })
}

// Allow takes back what Deny said in the same words.
func (s *Server) Allow(arn, action, name string) {
	s.change(func() { delete(s.denied, denial{arn, action, name}) })
}

// A credential is an access key and who it belongs to.
type credential struct {
	id, secret, token string
	arn               string // of the user, or of the session of the role
	owner             string // of the user or role: what Deny calls it
	user              string // unique ID
	expires           time.Time
}

// AccessKey returns new credentials of a user, which do not expire.
func (s *Server) AccessKey(arn string) (id, secret string) {
	c := &credential{id: "AKIA" + characters(16, idLetter), secret: characters(40, anyOf64), arn: arn, owner: arn, user: uniqueID("AIDA", arn)}
	s.change(func() { s.keys[c.id] = c })
	return c.id, c.secret
}

// session returns new credentials of a role. It needs s.mu.
func (s *Server) session(role, name string, expires time.Time) *credential {
	c := &credential{
		id: "ASIA" + characters(16, idLetter), secret: characters(40, anyOf64),
		token:   base64.StdEncoding.EncodeToString(append([]byte("IQoJb3JpZ2luX2Vj"), random(300)...)),
		arn:     strings.Replace(strings.Replace(role, ":iam:", ":sts:", 1), ":role/", ":assumed-role/", 1) + "/" + name,
		owner:   role,
		user:    uniqueID("AROA", role) + ":" + name,
		expires: expires.UTC().Truncate(time.Second),
	}
	s.keys[c.id] = c
	return c
}

// uniqueID returns what IAM would call it, the same every time.
func uniqueID(kind, arn string) string {
	sum := sha256.Sum256([]byte(arn))
	return kind + base32.StdEncoding.EncodeToString(sum[:])[:17]
}

// account returns the account of an ARN.
func account(arn string) string {
	if parts := strings.SplitN(arn, ":", 6); len(parts) == 6 {
		return parts[4]
	}
	return ""
}

// allow returns an error unless the caller may do the action, like
// secretsmanager:GetSecretValue, on the secret or parameter of that name,
// which messages show as they do. An action on nothing in particular has no
// name.
func (c *call) allow(action, name, shown string) error {
	if c.by == nil {
		return nil
	}
	if !c.server.denied[denial{c.by.owner, action, name}] && !c.server.denied[denial{c.by.owner, action, ""}] {
		return nil
	}
	if shown != "" {
		shown = " on resource: " + shown
	}
	return c.service.said(refuse("AccessDeniedException", "User: %s is not authorized to perform: %s%s because no identity-based policy allows the %s action",
		c.by.arn, action, shown, action))
}
