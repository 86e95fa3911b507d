// Package keystore opens PKCS#12 files without a password (RFC 7292), whoever
// wrote them: what a file asks for, it gets only as far as that takes little
// time and memory.
package keystore

import (
	"bytes"
	"crypto"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"errors"
	"slices"

	"software.sslmate.com/src/go-pkcs12"
)

const (
	// maxRounds is several times what today's programs write into a key store,
	// maxDepth twice the depth of one, and maxStore more than its usual size.
	maxRounds = 2_000_000
	maxDepth  = 40
	maxStore  = 64 << 10
)

// Why a file cannot be opened.
var (
	ErrNone     = errors.New("it is no PKCS#12 file")
	ErrCostly   = errors.New("it is a PKCS#12 file that takes too much work to open")
	ErrPassword = errors.New("it is a PKCS#12 file that cannot be opened without a password: store it without one")
)

// A Store is what a file holds: a private key, of RSA, ECDSA, Ed25519 or X25519,
// and at least one certificate.
type Store struct {
	Key          any
	Certificates []*x509.Certificate // in the order of the file
}

// A pfx is a PKCS#12 file: what it holds, and a MAC of that.
type pfx struct {
	Version int
	Content contentInfo
	MAC     asn1.RawValue `asn1:"optional"`
}

// A contentInfo is one part of a key store.
type contentInfo struct {
	Type    asn1.ObjectIdentifier
	Content asn1.RawValue `asn1:"tag:0,explicit,optional"`
}

// Open reads a file, as it is or in base64. The error is one of this package,
// and quotes nothing.
func Open(file []byte) (*Store, error) {
	if der, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(file))); err == nil {
		file = der
	}
	content, err := disarm(file)
	if err != nil {
		return nil, err
	}
	// There are two ways to encode an empty password; the library tries the
	// second where it finds a MAC that was made with that.
	for _, mac := range [][]byte{nil, unterminated(content)} {
		store, err := pack(content, mac)
		if err != nil {
			return nil, ErrNone
		}
		if key, first, more, err := pkcs12.DecodeChain(store, ""); err == nil {
			return &Store{key, append([]*x509.Certificate{first}, more...)}, nil
		}
	}
	return nil, ErrPassword
}

// disarm returns the parts of a key store so that opening them takes little:
// who wrote the file says how many rounds each derivation of a key takes, and
// that of a MAC, which proves nothing without a password, any memory too. What
// is encrypted comes last, so that the library has the one key that it takes,
// and refuses one that is hidden there before it opens it.
func disarm(file []byte) (content []byte, err error) {
	var store pfx
	var parts []asn1.RawValue
	rest, err := asn1.Unmarshal(file, &store)
	if err != nil || len(rest) > 0 {
		return nil, ErrNone
	}
	if _, err := asn1.Unmarshal(store.Content.Content.Bytes, &content); err != nil {
		return nil, ErrNone
	}
	if _, err := asn1.Unmarshal(content, &parts); err != nil {
		return nil, ErrNone
	}
	slices.SortStableFunc(parts, func(a, b asn1.RawValue) int { return encrypted(a) - encrypted(b) })
	if content, err = asn1.Marshal(parts); err != nil || !slices.ContainsFunc(parts, holdsKey) {
		return nil, ErrNone
	}
	if len(file) > maxStore || rounds(content, 0) > maxRounds {
		return nil, ErrCostly
	}
	return content, nil
}

// encrypted returns 1 for a part that is encrypted, else 0.
func encrypted(part asn1.RawValue) int {
	var info contentInfo
	if _, err := asn1.Unmarshal(part.FullBytes, &info); err == nil && info.Type.Equal(oidData()) {
		return 0
	}
	return 1
}

// holdsKey reports whether a part that is not encrypted has a private key,
// which may be encrypted for itself.
func holdsKey(part asn1.RawValue) bool {
	var info contentInfo
	var text []byte
	var bags []contentInfo // which begin as bags do
	if _, err := asn1.Unmarshal(part.FullBytes, &info); err != nil || encrypted(part) != 0 {
		return false
	}
	if _, err := asn1.Unmarshal(info.Content.Bytes, &text); err != nil {
		return false
	}
	if _, err := asn1.Unmarshal(text, &bags); err != nil {
		return false
	}
	return slices.ContainsFunc(bags, func(bag contentInfo) bool { return bag.Type.Equal(oidBag(1)) || bag.Type.Equal(oidBag(2)) })
}

func oidData() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 1} }

// oidBag is that of a bag: 1 has a key, 2 an encrypted one.
func oidBag(kind int) asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 10, 1, kind}
}

// rounds returns how many rounds the derivations of keys take that are in
// sight: their number is the INTEGER that comes second in its parameters, after
// the salt. An OCTET STRING that is opened has one SEQUENCE and nothing else;
// what is encrypted looks like that once in many millions.
func rounds(der []byte, depth int) int64 {
	var sum int64
	var before asn1.RawValue
	for i := 0; len(der) > 0; i++ {
		var element asn1.RawValue
		rest, err := asn1.Unmarshal(der, &element)
		if err != nil || depth > maxDepth {
			return sum // it is no ASN.1, and nothing that is opened
		}
		if i == 1 && before.Tag == asn1.TagOctetString && element.Class == asn1.ClassUniversal && element.Tag == asn1.TagInteger {
			sum += number(element.Bytes)
		}
		if element.IsCompound || element.Tag == asn1.TagOctetString && isSequence(element.Bytes) {
			sum += rounds(element.Bytes, depth+1)
		}
		if sum > maxRounds {
			return sum
		}
		before, der = element, rest
	}
	return sum
}

// isSequence reports whether the text is one SEQUENCE and nothing else.
func isSequence(der []byte) bool {
	var is asn1.RawValue
	rest, err := asn1.Unmarshal(der, &is)
	return err == nil && len(rest) == 0 && is.Class == asn1.ClassUniversal && is.Tag == asn1.TagSequence
}

// number returns the INTEGER, or more than maxRounds if it is not a small one.
func number(text []byte) int64 {
	var n int64
	for _, b := range text {
		if n = n<<8 | int64(b); n > maxRounds {
			return maxRounds + 1
		}
	}
	return n
}

// pack makes a key store of its content again.
func pack(content, mac []byte) ([]byte, error) {
	text, err := asn1.Marshal(content)
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(pfx{
		Version: 3,
		Content: contentInfo{Type: oidData(), Content: asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: text}},
		MAC:     asn1.RawValue{FullBytes: mac},
	})
}

// unterminated returns the MAC that the content has with an empty password
// that is encoded without its terminator (RFC 7292, appendix B), nil if it
// cannot be encoded.
func unterminated(content []byte) []byte {
	key := sha256.Sum256(bytes.Repeat([]byte{3}, sha256.BlockSize))
	mac := hmac.New(sha256.New, key[:])
	mac.Write(content)
	var data struct {
		Digest struct {
			Algorithm pkix.AlgorithmIdentifier
			Sum       []byte
		}
		Salt   []byte
		Rounds int
	}
	data.Digest.Algorithm.Algorithm = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}
	data.Digest.Sum, data.Rounds = mac.Sum(nil), 1
	text, err := asn1.Marshal(data)
	if err != nil {
		return nil
	}
	return text
}

// Chain returns the certificates as a server sends them: that of the key, then
// the issuer of each. Those that issued none of them come last.
func (s *Store) Chain() []*x509.Certificate {
	all := slices.Clone(s.Certificates)
	next := s.certifies
	for i := range all {
		j := slices.IndexFunc(all[i:], next)
		if j < 0 {
			break
		}
		found := all[i+j]
		all = slices.Insert(slices.Delete(all, i+j, i+j+1), i, found)
		next = func(c *x509.Certificate) bool { return issued(c, found) }
	}
	return all
}

// certifies reports whether a certificate is that of the key.
func (s *Store) certifies(c *x509.Certificate) bool {
	signer, ok := s.Key.(crypto.Signer)
	public, comparable := c.PublicKey.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && comparable && public.Equal(signer.Public())
}

// issued reports whether a certificate is that of the issuer of another, by its
// name, and by the identifier of its key where both have one.
func issued(issuer, c *x509.Certificate) bool {
	if !bytes.Equal(issuer.RawSubject, c.RawIssuer) {
		return false
	}
	return len(issuer.SubjectKeyId) == 0 || len(c.AuthorityKeyId) == 0 || bytes.Equal(issuer.SubjectKeyId, c.AuthorityKeyId)
}
