package awstest

import (
	"crypto/ecdsa"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/keymount/keymount/pkg/provider/providertest/trust"
)

// A signer is the issuer of the service account tokens of a cluster.
type signer struct {
	id  string
	key *ecdsa.PrivateKey
}

func newSigner(t testing.TB) *signer {
	t.Helper()
	return &signer{id: characters(40, letters), key: trust.NewKey(t)}
}

func (s *signer) public() trust.KeySet { return trust.KeySet{s.id: s.key.Public()} }

// Issuer returns the issuer of the tokens that ServiceAccountToken makes, which
// is trusted.
func (s *Server) Issuer() string {
	return "https://oidc.eks." + s.options.Region + ".amazonaws.com/id/EXAMPLED539D4633E53DE1B71EXAMPLE"
}

// A claimSet is what a service account token says.
type claimSet struct {
	jwt.RegisteredClaims
	Kubernetes map[string]any `json:"kubernetes.io,omitempty"`
}

// ServiceAccountToken returns a token as the API server of a cluster projects
// it for a service account.
func (s *Server) ServiceAccountToken(namespace, name, audience string, life time.Duration) string {
	s.t.Helper()
	now := time.Now()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claimSet{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: s.Issuer(), Subject: subjectOf(namespace, name), Audience: jwt.ClaimStrings{audience}, ID: uuid(),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(life)),
		},
		Kubernetes: map[string]any{"namespace": namespace, "serviceaccount": map[string]string{"name": name, "uid": uuid()}},
	})
	token.Header["kid"] = s.issuer.id
	text, err := token.SignedString(s.issuer.key)
	if err != nil {
		s.t.Fatalf("sign a token: %v", err)
	}
	return text
}

func subjectOf(namespace, name string) string {
	return "system:serviceaccount:" + namespace + ":" + name
}

// Trust makes the server accept the tokens of another issuer as well, like
// that of a real cluster, by its JSON Web Key Set.
func (s *Server) Trust(issuer string, jwks []byte) {
	s.t.Helper()
	keys, err := trust.ParseKeySet(jwks)
	if err != nil {
		s.t.Errorf("trust %s: %v", issuer, err)
		return
	}
	s.change(func() { s.trusted[issuer] = keys })
}

// Why a token is not accepted.
var (
	errMalformed = errors.New("no JWT")
	errIssuer    = errors.New("unknown issuer")
	errExpired   = errors.New("expired")
	errKey       = errors.New("unknown key")
	errSignature = errors.New("wrong signature")
	errAudience  = errors.New("wrong audience")
)

// verifyToken returns what a token says, with one of the errors above unless
// it is good. It needs s.mu.
func (s *Server) verifyToken(token, audience string, now time.Time) (*claimSet, error) {
	claims := &claimSet{}
	unverified, _, err := jwt.NewParser().ParseUnverified(token, claims)
	if err != nil {
		return claims, errMalformed
	}
	keys, known := s.trusted[claims.Issuer]
	id, _ := unverified.Header["kid"].(string)
	switch {
	case !known:
		return claims, errIssuer
	case claims.ExpiresAt == nil || !now.Before(claims.ExpiresAt.Time):
		return claims, errExpired
	case keys[id] == nil:
		return claims, errKey
	}
	parser := jwt.NewParser(jwt.WithoutClaimsValidation(), jwt.WithValidMethods([]string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"}))
	if _, err := parser.Parse(token, func(*jwt.Token) (any, error) { return keys[id], nil }); err != nil {
		return claims, errSignature
	}
	if !slices.Contains(claims.Audience, audience) {
		return claims, errAudience
	}
	return claims, nil
}
