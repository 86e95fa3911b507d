package azure

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/keymount/keymount/pkg/keystore"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/params"
	"github.com/keymount/keymount/pkg/secret"
)

// An objectKind is what a class calls objectType.
type objectKind string

const (
	secretKind      objectKind = "secret"
	keyKind         objectKind = "key"
	certificateKind objectKind = "cert"
)

// An object is one entry of a class.
type object struct {
	kind     objectKind
	name     string
	version  string // empty: the current one
	history  int    // how many versions, from that one back; at least 1
	file     string
	mode     fs.FileMode
	encoding params.Encoding
	pfx      bool
	separate bool   // the certificate and the key into files of their own as well
	password string // a secret that has the password of the PFX
	optional bool

	id                 string // in provider.Versions
	read, passwordRead *read
}

// The ends of names of files that have a part of a certificate's secret.
const (
	certificateEnd = ".crt"
	keyEnd         = ".key"
)

// pathOf returns the file of a version: the number counts back from the newest.
func (o *object) pathOf(number int) string {
	if o.history > 1 {
		return o.file + "/" + strconv.Itoa(number)
	}
	return o.file
}

// idOf is pathOf for the ID.
func (o *object) idOf(number int) string {
	if o.history > 1 {
		return o.id + "/" + strconv.Itoa(number)
	}
	return o.id
}

// paths returns all files that the class says that the object makes.
func (o *object) paths() []string {
	var all []string
	for number := range o.history {
		path := o.pathOf(number)
		if all = append(all, path); o.separate {
			all = append(all, path+certificateEnd, path+keyEnd)
		}
	}
	return all
}

// A content is a version of something in a vault as it is stored.
type content struct {
	version
	data    *secret.Value // nil: only the version is known
	format  string        // the content type
	managed bool          // Key Vault made the secret, of a certificate
}

// A version is what is known of one, apart from its content.
type version struct {
	id      string
	created time.Time
	expires time.Time // zero: never
}

// The content types of secrets that Key Vault makes of certificates.
const (
	pemType = "application/x-pem-file"
	pfxType = "application/x-pkcs12"
)

// files returns those of one version of the object.
func (o *object) files(c content, number int, password secret.Value, keepOrder bool) ([]provider.File, error) {
	path := o.pathOf(number)
	file := func(end string, data []byte) provider.File {
		return provider.File{Path: path + end, Mode: o.mode, Data: secret.New(data)}
	}
	if o.kind != secretKind || !c.managed {
		data, err := o.encoding.Decode(c.data.Reveal())
		if err != nil {
			return nil, fmt.Errorf("file %q: %w", path, err)
		}
		return []provider.File{file("", data)}, nil
	}
	b, err := c.bundle(keepOrder)
	if err != nil {
		return nil, err
	}
	whole, err := o.whole(b, c, password)
	if err != nil {
		return nil, err
	}
	files := []provider.File{file("", whole)}
	if o.separate {
		certificates, keys := b.parts()
		files = append(files, file(certificateEnd, certificates), file(keyEnd, keys))
	}
	return files, nil
}

// whole returns the file that has the certificate and its key.
func (o *object) whole(b bundle, c content, password secret.Value) ([]byte, error) {
	switch {
	case !o.pfx:
		return o.encoding.Decode(b.pem)
	case o.password != "":
		file, err := b.protected(password)
		if err != nil {
			return nil, err
		}
		return o.encoding.Decode([]byte(base64.StdEncoding.EncodeToString(file)))
	case c.format == pfxType:
		return o.encoding.Decode(c.data.Reveal())
	default:
		return nil, fmt.Errorf("the certificate is stored as %s and cannot be written as PFX without passwordObject: %w", printable(c.format), provider.ErrInvalid)
	}
}

// A bundle is a certificate with its key and those of its issuers.
type bundle struct {
	pem   []byte
	store *keystore.Store // nil where PEM is what is stored
}

// bundle takes a secret apart that Key Vault made of a certificate. Stored PEM
// stays as it is.
func (c content) bundle(keepOrder bool) (bundle, error) {
	switch c.format {
	case pemType:
		return bundle{pem: c.data.Reveal()}, nil
	case pfxType:
	default:
		return bundle{}, fmt.Errorf("failed to get certificate. unknown content type '%s': %w", printable(c.format), provider.ErrInvalid) // a text that people search for
	}
	store, err := keystore.Open(c.data.Reveal())
	if err != nil {
		return bundle{}, fmt.Errorf("the certificate cannot be read: %w: %w", err, provider.ErrInvalid)
	}
	key, err := x509.MarshalPKCS8PrivateKey(store.Key)
	if err != nil {
		return bundle{}, fmt.Errorf("the key of the certificate cannot be written as PEM: %w", provider.ErrInvalid)
	}
	if !keepOrder {
		store.Certificates = store.Chain()
	}
	b := bundle{store: store, pem: pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: key})}
	for _, certificate := range store.Certificates {
		b.pem = append(b.pem, certificatePEM(certificate.Raw)...)
	}
	return b, nil
}

const (
	certificateBlock = "CERTIFICATE"
	keyBlock         = "PRIVATE KEY"
)

func certificatePEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: certificateBlock, Bytes: der})
}

// parts returns the certificates, and the keys.
func (b bundle) parts() (certificates, keys []byte) {
	for block, rest := pem.Decode(b.pem); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == certificateBlock {
			certificates = append(certificates, pem.EncodeToMemory(block)...)
		} else {
			keys = append(keys, pem.EncodeToMemory(block)...)
		}
	}
	return certificates, keys
}

// protected returns a PKCS#12 file with a password. Equal bundles with equal
// passwords make equal files: what is random in one is derived from both.
func (b bundle) protected(password secret.Value) ([]byte, error) {
	store := b.store
	if store == nil {
		var err error
		if store, err = b.parse(); err != nil {
			return nil, err
		}
	}
	seed := slices.Concat(b.pem, password.Reveal())
	random, err := hkdf.Key(sha256.New, seed, nil, "keymount pkcs12", 1024)
	if err != nil {
		return nil, fmt.Errorf("protect the certificate with a password: %w: %w", err, provider.ErrUnavailable)
	}
	chain := store.Chain()
	file, err := pkcs12.Modern.WithRand(bytes.NewReader(random)).Encode(store.Key, chain[0], chain[1:], string(password.Reveal()))
	if err != nil {
		return nil, fmt.Errorf("the certificate cannot be protected with that password: %w", provider.ErrInvalid)
	}
	return file, nil
}

// parse reads a certificate with its key that is stored as PEM.
func (b bundle) parse() (*keystore.Store, error) {
	store := &keystore.Store{}
	for block, rest := pem.Decode(b.pem); block != nil; block, rest = pem.Decode(rest) {
		var err error
		switch block.Type {
		case certificateBlock:
			var c *x509.Certificate
			c, err = x509.ParseCertificate(block.Bytes)
			store.Certificates = append(store.Certificates, c)
		case keyBlock:
			store.Key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
		}
		if err != nil {
			return nil, fmt.Errorf("the certificate cannot be read: a block of its PEM is damaged: %w", provider.ErrInvalid)
		}
	}
	if store.Key == nil || len(store.Certificates) == 0 {
		return nil, fmt.Errorf("the certificate cannot be read: its PEM lacks the certificate or its key: %w", provider.ErrInvalid)
	}
	return store, nil
}

// decodeCER returns a certificate as PEM, and when it ends, zero if Go cannot
// read it.
func decodeCER(der []byte) ([]byte, time.Time) {
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return certificatePEM(der), time.Time{}
	}
	return certificatePEM(der), certificate.NotAfter
}
