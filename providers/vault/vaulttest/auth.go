package vaulttest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"
)

// A Role admits service accounts by their token.
type Role struct {
	Namespace, ServiceAccount string // empty: any
	Audience                  string // empty: any for Kubernetes, none for JWT
	Grant
}

// A Login is an auth mount: its roles admit who they name.
type Login struct {
	server *Server
	ns     *Namespace
	mount  string
	roles  map[string]Role
	kind   loginKind
}

// A loginKind is in what the two types of mounts differ.
type loginKind struct {
	admit   func(s *Server, role Role, jwt string, now time.Time) (claims, *answer)
	empty   string // what a login without a JWT is told
	unknown string // what a login without such a role is told
	name    func(c *claims) string
	meta    func(c *claims, role string) map[string]string
}

// Kubernetes returns the auth mount of that type.
func (n *Namespace) Kubernetes(mount string) *Login {
	n.t.Helper()
	return mounted(n, n.auths, "kubernetes", mount, func() *Login {
		return &Login{n.server, n, strings.Trim(mount, "/"), map[string]Role{}, loginKind{
			admitKubernetes, "missing jwt", "invalid role name %q", (*claims).account, (*claims).accountMeta,
		}}
	})
}

// JWT returns the auth mount of that type.
func (n *Namespace) JWT(mount string) *Login {
	n.t.Helper()
	return mounted(n, n.auths, "jwt", mount, func() *Login {
		return &Login{n.server, n, strings.Trim(mount, "/"), map[string]Role{}, loginKind{
			admitJWT, "missing token", "role %q could not be found", (*claims).subject, (*claims).roleMeta,
		}}
	})
}

// Role sets the role of that name.
func (e *Login) Role(name string, role Role) {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	e.roles[name] = role
}

func (e *Login) open(path string) bool { return path == "login" }

func (e *Login) serve(c *call) *answer {
	if c.path != "login" {
		return c.noPath()
	}
	name, jwt := c.text("role"), c.text("jwt")
	role, ok := e.roles[name]
	switch {
	case c.op != "update":
		return c.unsupported()
	case name == "":
		return refused(http.StatusBadRequest, "missing role")
	case jwt == "":
		return refused(http.StatusBadRequest, e.kind.empty)
	case !ok:
		return refused(http.StatusBadRequest, fmt.Sprintf(e.kind.unknown, name))
	}
	who, a := e.kind.admit(e.server, role, jwt, c.now)
	if a != nil {
		return a
	}
	return e.server.logIn(c, &token{
		ns: e.ns, path: "auth/" + e.mount + "/login", display: e.ns.display(e.mount) + "-" + e.kind.name(&who), entity: uuid(), meta: e.kind.meta(&who, name),
		grant: role.Grant, policies: policies(name),
	})
}

// policies are the names that a token of the role has.
func policies(role string) []string {
	return slices.Sorted(slices.Values([]string{"default", role}))
}

// logIn issues the token and answers with it.
func (s *Server) logIn(c *call, t *token) *answer {
	s.issue(t, c.now)
	s.logins++
	return &answer{status: http.StatusOK, envelope: envelope{Auth: t.auth(t.ttl)}}
}

// claims are what a service account token says.
type claims struct {
	Subject    string   `json:"sub"`
	Issuer     string   `json:"iss"`
	Audience   []string `json:"aud"`
	Expires    int64    `json:"exp"`
	Issued     int64    `json:"iat"`
	NotBefore  int64    `json:"nbf"`
	Kubernetes struct {
		Namespace      string `json:"namespace"`
		ServiceAccount struct {
			Name string `json:"name"`
			UID  string `json:"uid"`
		} `json:"serviceaccount"`
	} `json:"kubernetes.io"`
}

func (c *claims) subject() string { return c.Subject }

func (c *claims) account() string {
	return c.Kubernetes.Namespace + "-" + c.Kubernetes.ServiceAccount.Name
}

func (c *claims) roleMeta(role string) map[string]string { return map[string]string{"role": role} }

func (c *claims) accountMeta(role string) map[string]string {
	account := c.Kubernetes.ServiceAccount
	return map[string]string{
		"role": role, "service_account_name": account.Name, "service_account_namespace": c.Kubernetes.Namespace,
		"service_account_secret_name": "", "service_account_uid": account.UID,
	}
}

// ServiceAccountToken returns a token as the cluster of this server makes
// them for pods. Another Server makes one that this one refuses.
func (s *Server) ServiceAccountToken(namespace, name, audience string, ttl time.Duration) string {
	now := time.Now()
	c := claims{Subject: "system:serviceaccount:" + namespace + ":" + name, Issuer: "https://kubernetes.default.svc", Audience: []string{audience},
		Expires: now.Add(ttl).Unix(), Issued: min(now.Unix(), now.Add(ttl-time.Hour).Unix()), NotBefore: min(now.Unix(), now.Add(ttl-time.Hour).Unix())}
	c.Kubernetes.Namespace, c.Kubernetes.ServiceAccount.Name, c.Kubernetes.ServiceAccount.UID = namespace, name, "uid-"+name
	payload, err := json.Marshal(c)
	if err != nil {
		s.t.Fatalf("write a service account token: %v", err)
	}
	text := encode([]byte(`{"alg":"ES256","kid":"vaulttest"}`)) + "." + encode(payload)
	digest := sha256.Sum256([]byte(text))
	r, v, err := ecdsa.Sign(rand.Reader, s.signer, digest[:])
	if err != nil {
		s.t.Fatalf("sign a service account token: %v", err)
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	v.FillBytes(signature[32:])
	return text + "." + encode(signature)
}

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// TokenKeyPEM returns the public key that service account tokens are signed
// with, for a real server to be compared with.
func (s *Server) TokenKeyPEM() []byte {
	der, err := x509.MarshalPKIXPublicKey(s.signer.Public())
	if err != nil {
		s.t.Fatalf("write the key of service account tokens: %v", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// verify returns the claims of a token, and whether its form and its
// signature are right.
func (s *Server) verify(jwt string) (c claims, formed, signed bool) {
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		return c, false, false
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(payload, &c) != nil {
		return c, false, false
	}
	signature, err := base64.RawURLEncoding.DecodeString(parts[2])
	if err != nil || len(signature) != 64 {
		return c, true, false
	}
	digest := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	r, v := new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])
	return c, true, ecdsa.Verify(&s.signer.PublicKey, digest[:], r, v)
}

// leeway is how long a token is taken after its end.
const leeway = 150 * time.Second

const (
	expired       = "invalid expiration time (exp) claim: token is expired"
	wrongAudience = "invalid audience (aud) claim: audience claim does not match any expected audience"
)

// admitKubernetes checks a token as auth/kubernetes does, which asks the
// cluster about the signature last.
func admitKubernetes(s *Server, role Role, jwt string, now time.Time) (claims, *answer) {
	c, formed, signed := s.verify(jwt)
	deny := func(text string) (claims, *answer) { return c, refused(http.StatusForbidden, text) }
	switch {
	case !formed:
		return deny("permission denied")
	case now.After(time.Unix(c.Expires, 0).Add(leeway)):
		return deny(expired)
	case role.Audience != "" && !slices.Contains(c.Audience, role.Audience):
		return deny(wrongAudience)
	case role.ServiceAccount != "" && role.ServiceAccount != c.Kubernetes.ServiceAccount.Name:
		return deny("service account name not authorized")
	case role.Namespace != "" && role.Namespace != c.Kubernetes.Namespace:
		return deny("namespace not authorized")
	case !signed:
		return deny("permission denied")
	}
	return c, nil
}

// admitJWT checks a token as auth/jwt does, the signature first.
func admitJWT(s *Server, role Role, jwt string, now time.Time) (claims, *answer) {
	c, formed, signed := s.verify(jwt)
	deny := func(text string) (claims, *answer) {
		return c, refused(http.StatusBadRequest, "error validating token: "+text)
	}
	subject := "system:serviceaccount:" + role.Namespace + ":" + role.ServiceAccount
	switch {
	case role.Audience == "":
		return c, refused(http.StatusBadRequest, "audience claim found in JWT but no audiences bound to the role")
	case !formed:
		return deny("error verifying token signature: go-jose/go-jose: compact JWS format must have three parts")
	case !signed:
		return deny("error verifying token signature: no known key successfully validated the token signature")
	case now.After(time.Unix(c.Expires, 0).Add(leeway)):
		return deny(expired)
	case role.Namespace != "" && role.ServiceAccount != "" && c.Subject != subject:
		return deny("invalid subject (sub) claim")
	case !slices.Contains(c.Audience, role.Audience):
		return deny(wrongAudience)
	}
	return c, nil
}
