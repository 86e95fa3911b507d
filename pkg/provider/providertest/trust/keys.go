package trust

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
)

// A KeySet has the public keys of an issuer, by key ID.
type KeySet map[string]crypto.PublicKey

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

// ParseKeySet reads a JSON Web Key Set (RFC 7517) of RSA and EC keys.
func ParseKeySet(jwks []byte) (KeySet, error) {
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		return nil, fmt.Errorf("it has no JSON Web Key Set: %w", err)
	}
	keys := KeySet{}
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
