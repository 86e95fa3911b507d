package vault

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// The methods of authentication that a class may name.
const (
	methodKubernetes = "kubernetes" // the pod's service account token, which the server has reviewed
	methodJWT        = "jwt"        // the same token, whose signature the server checks
	methodAppRole    = "approle"    // role_id and secret_id of the pod's Secret
	methodCert       = "cert"       // tls.crt and tls.key of the pod's Secret
	methodToken      = "token"      // token of the pod's Secret
)

// A login is how a volume gets its token.
type login struct {
	method string
	mount  string
	role   string
	who    string // for messages
	// identity is equal for logins that may share a token.
	identity    string
	call        call             // that logs in; none for methodToken
	token       secret.Value     // of methodToken
	certificate *tls.Certificate // of methodCert
}

// parseLogin returns how the request's identity logs in. The proof of it is
// part of every request: that others of the identity have logged in before is
// not enough.
func (p *Provider) parseLogin(given parameters, req *provider.Request) (login, error) {
	method, key, _ := given.get("AuthMethod")
	l := login{method: strings.ToLower(method), role: given.role()}
	if l.method == "" {
		l.method = methodKubernetes
	}
	fallback := l.method
	if l.method == methodKubernetes {
		fallback = p.settings.authMount
	}
	var err error
	if l.mount, err = given.authMount(fallback); err != nil {
		return l, fmt.Errorf("%w: %w", err, provider.ErrInvalid)
	}
	var proof string
	switch l.method {
	case methodKubernetes, methodJWT:
		proof, err = l.byServiceAccount(given, req)
	case methodAppRole:
		proof, err = l.byAppRole(p.macKey, req.Credentials)
	case methodCert:
		proof, err = l.byCertificate(p.macKey, req.Credentials)
	case methodToken:
		proof, err = l.byToken(p.macKey, req.Credentials)
	default:
		err = fmt.Errorf("parameter %q: want %s, %s, %s, %s or %s: %w", key, methodKubernetes, methodJWT, methodAppRole, methodCert, methodToken, provider.ErrInvalid)
	}
	l.identity = digest(l.method, l.mount, l.role, proof)
	return l, err
}

// role is the role of the server to log in with. It has no prefix, or any.
func (p parameters) role() string {
	plain := p.values["roleName"]
	if p.product == Vault && plain != "" {
		return plain
	}
	if role, _, ok := p.get("RoleName"); ok {
		return role
	}
	return plain
}

// digest is a short name for what is not secret.
func digest(parts ...string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", parts))
	return base64.RawURLEncoding.EncodeToString(sum[:12])
}

// byServiceAccount logs in with the pod's token of the class's audience.
func (l *login) byServiceAccount(given parameters, req *provider.Request) (proof string, err error) {
	audience := given.values["audience"]
	if audience == "" {
		audience = given.product.audience()
	}
	l.who = fmt.Sprintf("service account %s/%s with role %q and audience %q", req.Pod.Namespace, req.Pod.ServiceAccount, l.role, audience)
	if l.role == "" {
		return "", fmt.Errorf("missing 'roleName' in SecretProviderClass definition: %w", provider.ErrInvalid) // a text that people search for
	}
	token, err := req.Tokens.For(audience, time.Now())
	if err != nil {
		return "", err
	}
	l.call = l.post(map[string]string{"role": l.role, "jwt": string(token.Value.Reveal())})
	return digest(audience, req.Pod.Namespace, req.Pod.ServiceAccount), nil
}

func (l *login) byAppRole(key []byte, credentials map[string]secret.Value) (proof string, err error) {
	l.who = "the AppRole of the Secret"
	role, secretID, err := both(credentials, "role_id", "secret_id")
	if err != nil {
		return "", err
	}
	l.call = l.post(map[string]string{"role_id": string(role.Reveal()), "secret_id": string(secretID.Reveal())})
	return fingerprint(key, role, secretID), nil
}

func (l *login) byCertificate(key []byte, credentials map[string]secret.Value) (proof string, err error) {
	l.who = fmt.Sprintf("the certificate of the Secret with role %q", l.role)
	certificate, private, err := both(credentials, "tls.crt", "tls.key")
	if err != nil {
		return "", err
	}
	pair, err := tls.X509KeyPair(certificate.Reveal(), private.Reveal())
	if err != nil {
		return "", fmt.Errorf("tls.crt and tls.key of the Secret that nodePublishSecretRef names are not a certificate and its key: %w", provider.ErrInvalid)
	}
	l.certificate = &pair
	l.call = l.post(map[string]string{"name": l.role})
	return fingerprint(key, certificate, private), nil
}

func (l *login) byToken(key []byte, credentials map[string]secret.Value) (proof string, err error) {
	l.who = "the token of the Secret"
	l.token, err = one(credentials, "token")
	if err != nil {
		return "", err
	}
	l.token = secret.New([]byte(strings.TrimSpace(string(l.token.Reveal()))))
	return fingerprint(key, l.token), nil
}

func (l *login) post(fields map[string]string) call { return post("auth/"+l.mount+"/login", fields) }

func both(credentials map[string]secret.Value, first, second string) (a, b secret.Value, err error) {
	a, errA := one(credentials, first)
	b, errB := one(credentials, second)
	return a, b, errors.Join(errA, errB)
}

// one returns a credential of the Secret, which must be there.
func one(credentials map[string]secret.Value, name string) (secret.Value, error) {
	value := credentials[name]
	if value.Len() == 0 {
		return value, fmt.Errorf("the Secret that the pod's nodePublishSecretRef names must have the key %q: %w", name, provider.ErrInvalid)
	}
	return value, nil
}

// fingerprint tells credentials apart and nothing else of them.
func fingerprint(key []byte, values ...secret.Value) string {
	var parts []string
	for _, value := range values {
		parts = append(parts, string(value.MAC(key)))
	}
	return digest(parts...)
}

// A loginError says that somebody could not log in, whatever it was for.
type loginError struct {
	who string
	err error
}

func (e *loginError) Error() string { return fmt.Sprintf("failed to login: %s: %v", e.who, e.err) } // a text that people search for

func (e *loginError) Unwrap() error { return e.err }

// begin logs in and returns the session.
func (l login) begin(ctx context.Context, c *connection, namespace string) (*session, error) {
	s := &session{conn: c, namespace: namespace, identity: l.identity, born: time.Now()}
	if l.method == methodToken {
		s.token = l.token
		return s, nil
	}
	call := l.call
	call.namespace = namespace
	response, err := c.do(ctx, call)
	var refusal *refusal
	switch {
	case errors.As(err, &refusal) && (refusal.status == http.StatusBadRequest || refusal.status == http.StatusNotFound):
		refusal.reason = provider.ErrDenied // of an identity, whatever the server calls it
		return nil, &loginError{l.who, refusal}
	case err != nil:
		return nil, &loginError{l.who, err}
	case response.auth == nil:
		return nil, &loginError{l.who, fmt.Errorf("%s: the answer has no token: %w", response.request, provider.ErrUnavailable)}
	}
	s.adopt(response.auth)
	return s, nil
}
