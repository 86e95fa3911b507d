package azuretest

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"fmt"
	"maps"
	"math/big"
	"time"
)

// A Key is what PutKey puts.
type Key struct {
	Public  crypto.PublicKey // *rsa.PublicKey or *ecdsa.PublicKey; nil with X and Y, or for oct
	Type    string           // like EC-HSM or oct. Default: RSA or EC, as Public is
	Curve   string           // like P-256K. Default: as Public is
	X, Y    []byte           // instead of Public, for a Curve that Go does not have
	Expires time.Time        // zero: it says nothing
}

// PutKey adds a version of a key.
func (v *Vault) PutKey(name string, k Key) (version string) {
	v.server.t.Helper()
	v.server.mu.Lock()
	defer v.server.mu.Unlock()
	id := newVersion()
	v.putKey(name, id, k, object{})
	return id
}

// putKey needs server.mu.
func (v *Vault) putKey(name, id string, k Key, brief object) {
	v.server.t.Helper()
	members, err := k.members()
	if err != nil {
		v.server.t.Errorf("azuretest: put key %s: %v", name, err)
		return
	}
	v.put(keys, name, version{id: id, expires: k.Expires, brief: brief, full: func(vault string) object {
		key := object{"kid": idOf(vault, keys, name, id)}
		maps.Copy(key, members)
		return object{"key": key}
	}})
}

// members returns what a JSON Web Key has.
func (k Key) members() (object, error) {
	text := base64.RawURLEncoding.EncodeToString
	switch key := k.Public.(type) {
	case *rsa.PublicKey:
		return object{
			"kty": cmp.Or(k.Type, "RSA"), "n": text(key.N.Bytes()), "e": text(big.NewInt(int64(key.E)).Bytes()),
			"key_ops": []string{"encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"},
		}, nil
	case *ecdsa.PublicKey:
		point, err := key.Bytes()
		if err != nil {
			return nil, err
		}
		k.X, k.Y = point[1:1+len(point)/2], point[1+len(point)/2:]
		k.Curve = cmp.Or(k.Curve, key.Params().Name)
	case nil:
	default:
		return nil, fmt.Errorf("a vault has no %T", key)
	}
	if k.X == nil {
		return object{"kty": cmp.Or(k.Type, "oct"), "key_ops": []string{"encrypt", "decrypt", "wrapKey", "unwrapKey"}}, nil
	}
	return object{
		"kty": cmp.Or(k.Type, "EC"), "crv": k.Curve, "x": text(k.X), "y": text(k.Y), "key_ops": []string{"sign", "verify"},
	}, nil
}
