package secretobject

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"github.com/keymount/keymount/pkg/keystore"
)

const (
	certificateBlock = "CERTIFICATE"
	encryptedBlock   = "ENCRYPTED PRIVATE KEY"
	keyBlock         = "PRIVATE KEY" // what the names of all blocks with a private key end in

	// maxKey is the size of an RSA key of 16384 bits, and more: to read a key
	// takes time that grows with the square of its size.
	maxKey = 16 << 10
)

var (
	errNoCertificate = errors.New("it holds no certificate: a file in PEM, or PKCS#12 without a password, is needed")
	errNoKey         = errors.New("it holds no private key: a file in PEM, or PKCS#12 without a password, is needed")
	errEncrypted     = errors.New("its private key is encrypted: store it without a passphrase")
	errKey           = errors.New("its private key cannot be read: RSA, ECDSA and Ed25519 keys in PKCS#1, PKCS#8 or SEC 1 can")
	errCertificate   = errors.New("one of its certificates cannot be read")
)

// certificates returns the certificates of a file as PEM: in the order of the
// file, and of a PKCS#12 file the leaf first. Those of a PKCS#12 file that are
// not the key's own are what authorities asks for.
func certificates(file []byte, authorities bool) ([]byte, error) {
	var out []byte
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != certificateBlock {
			continue
		}
		if !isSequence(block.Bytes) {
			return nil, errCertificate
		}
		out = append(out, certificatePEM(block.Bytes)...)
	}
	if len(out) > 0 {
		return out, nil
	}
	store, err := keystore.Open(file)
	switch {
	case errors.Is(err, keystore.ErrNone):
		return nil, errNoCertificate
	case err != nil:
		return nil, err
	}
	chain := store.Chain()
	if authorities {
		chain = chain[1:]
	}
	for _, c := range chain {
		out = append(out, certificatePEM(c.Raw)...)
	}
	if len(out) == 0 {
		return nil, errNoCertificate
	}
	return out, nil
}

// isSequence reports whether the text is one SEQUENCE and nothing else, as far
// as its length tells. Of a certificate no more is asked: what is odd about it
// is for those to judge who use it, and some take what Go does not.
func isSequence(der []byte) bool {
	text, content := cryptobyte.String(der), cryptobyte.String(nil)
	return text.ReadASN1(&content, asn1.SEQUENCE) && text.Empty()
}

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der})
}

// privateKey returns the private key of a file as PEM: the last one if it
// holds several.
func privateKey(file []byte) ([]byte, error) {
	var last *pem.Block
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		if strings.HasSuffix(block.Type, keyBlock) {
			last = block
		}
	}
	switch {
	case last == nil:
		store, err := keystore.Open(file)
		if errors.Is(err, keystore.ErrNone) {
			return nil, errNoKey
		}
		if err != nil {
			return nil, err
		}
		return encodeKey(store.Key)
	case last.Type == encryptedBlock || last.Headers["DEK-Info"] != "":
		return nil, errEncrypted
	}
	key, err := parseKey(last.Bytes)
	if err != nil {
		return nil, err
	}
	return encodeKey(key)
}

// parseKey reads a key whatever its block calls itself.
func parseKey(der []byte) (any, error) {
	if len(der) > maxKey {
		return nil, errKey
	}
	if key, err := x509.ParsePKCS8PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	return nil, errKey
}

// encodeKey writes a key in the form of its kind that most programs read.
func encodeKey(key any) ([]byte, error) {
	kind, der, err := "", []byte(nil), errKey
	switch key := key.(type) {
	case *rsa.PrivateKey:
		kind, der, err = "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key), nil
	case *ecdsa.PrivateKey:
		kind = "EC PRIVATE KEY"
		der, err = x509.MarshalECPrivateKey(key)
	case ed25519.PrivateKey:
		kind = keyBlock
		der, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		return nil, errKey
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), nil
}
