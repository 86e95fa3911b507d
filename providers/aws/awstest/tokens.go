package awstest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// A keySet has the public keys of an issuer, by key ID.
type keySet map[string]crypto.PublicKey

// A signer is the issuer of the service account tokens of a cluster.
type signer struct {
	id  string
	key *ecdsa.PrivateKey
}

func newSigner(t testing.TB) *signer {
	t.Helper()
	return &signer{id: characters(40, letters), key: newKey(t)}
}

func (s *signer) public() keySet { return keySet{s.id: s.key.Public()} }

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
	keys, err := parseKeySet(jwks)
	if err != nil {
		s.t.Errorf("trust %s: %v", issuer, err)
		return
	}
	s.change(func() { s.trusted[issuer] = keys })
}

// A jwk is a public key in a JSON Web Key Set.
type jwk struct {
	Type  string `json:"kty"`
	ID    string `json:"kid"`
	Curve string `json:"crv"`
	X     string `json:"x"`
	Y     string `json:"y"`
	N     string `json:"n"`
	E     string `json:"e"`
}

func parseKeySet(jwks []byte) (keySet, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		return nil, fmt.Errorf("it has no JSON Web Key Set: %w", err)
	}
	keys := keySet{}
	for _, k := range set.Keys {
		key, err := k.public()
		if err != nil {
			return nil, fmt.Errorf("key %q: %w", k.ID, err)
		}
		keys[k.ID] = key
	}
	if len(keys) == 0 {
		return nil, errors.New("its JSON Web Key Set has no key")
	}
	return keys, nil
}

func (k jwk) public() (crypto.PublicKey, error) {
	curves := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}
	var numbers [][]byte
	for _, text := range []string{k.N, k.E, k.X, k.Y} {
		number, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			return nil, err
		}
		numbers = append(numbers, number)
	}
	n, e, x, y := new(big.Int).SetBytes(numbers[0]), new(big.Int).SetBytes(numbers[1]), numbers[2], numbers[3]
	switch {
	case k.Type == "RSA" && n.Sign() > 0 && e.IsInt64():
		return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
	case k.Type == "EC" && curves[k.Curve] != nil:
		return ecdsa.ParseUncompressedPublicKey(curves[k.Curve], slices.Concat([]byte{4}, x, y))
	default:
		return nil, fmt.Errorf("it is neither an RSA nor an EC key: %s %s", k.Type, k.Curve)
	}
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
