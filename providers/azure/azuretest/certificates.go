package azuretest

import (
	"cmp"
	"crypto"
	"crypto/sha1" //nolint:gosec // x5t is SHA-1
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// A Certificate is what PutCertificate puts.
type Certificate struct {
	Chain   [][]byte          // DER, in the order of the secret; one is of the Key: the certificate
	Key     crypto.PrivateKey // RSA or ECDSA
	PFX     bool              // the secret is a PFX, rather than PEM
	Encoder *pkcs12.Encoder   // of the PFX. Default: pkcs12.LegacyRC2, as vaults have it
	Expires time.Time         // Default: when the certificate does
}

// PutCertificate adds a version of a certificate, and of the key and the
// secret of that name, as a vault does.
func (v *Vault) PutCertificate(name string, c Certificate) (version string) {
	v.server.t.Helper()
	v.server.mu.Lock()
	defer v.server.mu.Unlock()
	id := newVersion()
	if err := v.putCertificate(name, id, c); err != nil {
		v.server.t.Errorf("azuretest: put certificate %s: %v", name, err)
	}
	return id
}

// putCertificate needs server.mu.
func (v *Vault) putCertificate(name, id string, c Certificate) error {
	leaf, others, err := c.parse()
	if err != nil {
		return err
	}
	content, kind, err := c.secret(leaf, others)
	if err != nil {
		return err
	}
	if c.Expires.IsZero() {
		c.Expires = leaf.NotAfter
	}
	managed := func() object { return object{"managed": true} }
	v.putKey(name, id, Key{Public: leaf.PublicKey, Expires: c.Expires}, managed())
	v.put(secrets, name, secretVersion(name, id, Secret{Value: content, ContentType: kind, NotBefore: leaf.NotBefore, Expires: c.Expires}, managed()))
	sum := sha1.Sum(leaf.Raw) //nolint:gosec // x5t is SHA-1
	v.put(certificates, name, version{
		id: id, expires: c.Expires, notBefore: leaf.NotBefore, brief: object{"x5t": base64.RawURLEncoding.EncodeToString(sum[:])},
		full: func(vault string) object {
			return object{
				"id": idOf(vault, certificates, name, id), "kid": idOf(vault, keys, name, id), "sid": idOf(vault, secrets, name, id),
				"cer": base64.StdEncoding.EncodeToString(leaf.Raw), "policy": object{
					"id": vault + "/" + certificates + "/" + name + "/policy", "secret_props": object{"contentType": kind}, "issuer": object{"name": "Unknown"},
				},
			}
		},
	})
	return nil
}

// parse returns the certificate of the key, and the others.
func (c Certificate) parse() (leaf *x509.Certificate, others []*x509.Certificate, err error) {
	key, ok := c.Key.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("a %T is no key of a certificate", c.Key)
	}
	for _, der := range c.Chain {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, err
		}
		public, ok := cert.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
		if ok && leaf == nil && public.Equal(key.Public()) {
			leaf = cert
			continue
		}
		others = append(others, cert)
	}
	if leaf == nil {
		return nil, nil, errors.New("no certificate of the chain is of its key")
	}
	return leaf, others, nil
}

// secret returns the content and content type of the secret.
func (c Certificate) secret(leaf *x509.Certificate, others []*x509.Certificate) (content, kind string, err error) {
	if c.PFX {
		encoder := cmp.Or(c.Encoder, pkcs12.LegacyRC2)
		pfx, err := encoder.Encode(c.Key, leaf, others, "")
		return base64.StdEncoding.EncodeToString(pfx), "application/x-pkcs12", err
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.Key)
	if err != nil {
		return "", "", err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})
	for _, der := range c.Chain {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return string(text), "application/x-pem-file", nil
}
