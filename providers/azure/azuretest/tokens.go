package azuretest

import (
	"crypto/ecdsa"
	"encoding/hex"
	"errors"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/keymount/keymount/pkg/provider/providertest/trust"
)

// A signer signs tokens.
type signer struct {
	id  string
	key *ecdsa.PrivateKey
}

func newSigner(t testing.TB) *signer {
	t.Helper()
	return &signer{id: hex.EncodeToString(random(20)), key: trust.NewKey(t)}
}

func (s *signer) public() trust.KeySet { return trust.KeySet{s.id: s.key.Public()} }

func (s *signer) sign(t testing.TB, claims jwt.Claims) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["kid"] = s.id
	text, err := token.SignedString(s.key)
	if err != nil {
		t.Errorf("sign a token: %v", err)
	}
	return text
}

// Issuer returns the issuer of the tokens that ServiceAccountToken makes, which
// is trusted.
func (s *Server) Issuer() string {
	return "https://westeurope.oic.prod-aks.azure.com/" + s.Tenant + "/cluster/"
}

// A claimSet is what a service account token says, or an assertion.
type claimSet struct {
	jwt.RegisteredClaims
	Kubernetes map[string]any `json:"kubernetes.io,omitempty"`
}

// ServiceAccountToken returns a token as the API server of a cluster projects
// it for a service account.
func (s *Server) ServiceAccountToken(namespace, name, audience string, life time.Duration) string {
	s.t.Helper()
	now := time.Now()
	return s.issuer.sign(s.t, claimSet{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: s.Issuer(), Subject: "system:serviceaccount:" + namespace + ":" + name, Audience: jwt.ClaimStrings{audience}, ID: uuid(),
			IssuedAt: jwt.NewNumericDate(now), NotBefore: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(life)),
		},
		Kubernetes: map[string]any{"namespace": namespace, "serviceaccount": map[string]string{"name": name, "uid": uuid()}},
	})
}

// Trust makes every app with Subjects accept the tokens of another issuer as
// well, like that of a real cluster, by its JSON Web Key Set.
func (s *Server) Trust(issuer string, jwks []byte) {
	s.t.Helper()
	keys, err := trust.ParseKeySet(jwks)
	if err != nil {
		s.t.Errorf("trust %s: %v", issuer, err)
		return
	}
	s.change(func() { s.trusted[issuer] = keys })
}

// verify fills claims from a token that one of the keys has signed, whatever
// they say.
func verify(token string, claims jwt.Claims, keys trust.KeySet, methods ...string) error {
	parser := jwt.NewParser(jwt.WithoutClaimsValidation(), jwt.WithValidMethods(methods))
	_, err := parser.ParseWithClaims(token, claims, func(t *jwt.Token) (any, error) {
		id, _ := t.Header["kid"].(string)
		if keys[id] == nil {
			return nil, errors.New("unknown key")
		}
		return keys[id], nil
	})
	return err
}

// within reports whether the claims hold now.
func within(c jwt.RegisteredClaims, now time.Time) bool {
	return c.ExpiresAt != nil && now.Before(c.ExpiresAt.Time) && (c.NotBefore == nil || !now.Before(c.NotBefore.Time))
}
