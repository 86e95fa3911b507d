package keystore

import (
	"bytes"
	"crypto/cipher"
	"crypto/des"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"slices"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"
)

// A chain is a key with its certificate, and the authorities above that.
type chain struct {
	key            *ecdsa.PrivateKey
	leaf, ca, root *x509.Certificate
}

func one(t testing.TB) chain {
	t.Helper()
	rootKey, caKey, key := newKey(t), newKey(t), newKey(t)
	root := sign(t, "root", nil, &rootKey.PublicKey, rootKey)
	ca := sign(t, "ca", root, &caKey.PublicKey, rootKey)
	return chain{key, sign(t, "leaf", ca, &key.PublicKey, caKey), ca, root}
}

func (c chain) store(t testing.TB) []byte {
	t.Helper()
	der, err := pkcs12.Modern.Encode(c.key, c.leaf, []*x509.Certificate{c.ca}, "")
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign returns a certificate of the key, by the parent; nil: by itself.
func sign(t testing.TB, name string, parent *x509.Certificate, public *ecdsa.PublicKey, by *ecdsa.PrivateKey) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: name != "leaf", BasicConstraintsValid: true,
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
	}
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func explicit(t testing.TB, value any) asn1.RawValue {
	t.Helper()
	return asn1.RawValue{Class: asn1.ClassContextSpecific, IsCompound: true, Bytes: encode(t, value)}
}

func encode(t testing.TB, value any) []byte {
	t.Helper()
	der, err := asn1.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// bag returns a SafeBag of the kind.
func bag(t testing.TB, kind int, value any) contentInfo {
	t.Helper()
	return contentInfo{Type: oidBag(kind), Content: explicit(t, value)}
}

// open returns a part that is not encrypted.
func open(t testing.TB, bags ...contentInfo) contentInfo {
	t.Helper()
	return contentInfo{Type: oidData(), Content: explicit(t, encode(t, bags))}
}

func certBag(t testing.TB, c *x509.Certificate) contentInfo {
	t.Helper()
	return bag(t, 3, contentInfo{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 22, 1}, Content: explicit(t, c.Raw)})
}

type pbe struct {
	Salt   []byte
	Rounds int
}

// shrouded returns a key that is encrypted with 3DES, and says that it takes so
// many rounds. The password is encoded as bytes.
func shrouded(t testing.TB, key any, rounds int, password []byte) contentInfo {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return bag(t, 2, struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}{tripleDES(t, rounds), seal(t, der, password)})
}

func tripleDES(t testing.TB, rounds int) pkix.AlgorithmIdentifier {
	t.Helper()
	return pkix.AlgorithmIdentifier{
		Algorithm:  asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 1, 3},
		Parameters: asn1.RawValue{FullBytes: encode(t, pbe{[]byte("saltsalt"), rounds})},
	}
}

// seal encrypts with one round, as RFC 7292 says in appendix B.
func seal(t testing.TB, plain, password []byte) []byte {
	t.Helper()
	derive := func(id byte, size int) (out []byte) {
		input := slices.Concat(bytes.Repeat([]byte("saltsalt"), 8), bytes.Repeat(password, 64/max(1, len(password))))
		for len(out) < size {
			sum := sha1.Sum(append(bytes.Repeat([]byte{id}, 64), input...))
			out = append(out, sum[:]...)
			input = increase(input, sum[:])
		}
		return out[:size]
	}
	block, err := des.NewTripleDESCipher(derive(1, 24))
	if err != nil {
		t.Fatal(err)
	}
	padding := 8 - len(plain)%8
	text := append(slices.Clone(plain), bytes.Repeat([]byte{byte(padding)}, padding)...)
	cipher.NewCBCEncrypter(block, derive(2, 8)).CryptBlocks(text, text)
	return text
}

// increase adds sum, repeated, and one to each block of the input.
func increase(input, sum []byte) []byte {
	b := bytes.Repeat(sum, 4)[:64]
	next := slices.Clone(input)
	for start := 0; start < len(next); start += 64 {
		carry := 1
		for i := 63; i >= 0; i-- {
			carry += int(next[start+i]) + int(b[i])
			next[start+i] = byte(carry)
			carry >>= 8
		}
	}
	return next
}

// sealed returns a part that is encrypted.
func sealed(t testing.TB, bags ...contentInfo) contentInfo {
	t.Helper()
	type inner struct {
		Type      asn1.ObjectIdentifier
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte `asn1:"tag:0"`
	}
	return contentInfo{Type: asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 6}, Content: explicit(t, struct {
		Version int
		Inner   inner
	}{0, inner{oidData(), tripleDES(t, 1), seal(t, encode(t, bags), []byte{0, 0})}})}
}

func storeOf(t testing.TB, parts ...contentInfo) []byte {
	t.Helper()
	file, err := pack(encode(t, parts), nil)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestKeyStoresOfAllProgramsAreRead(t *testing.T) {
	c := one(t)
	made := func(e *pkcs12.Encoder) []byte {
		der, err := e.Encode(c.key, c.leaf, []*x509.Certificate{c.ca}, "")
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	for name, file := range map[string][]byte{
		"RC2, of long ago":            made(pkcs12.LegacyRC2),
		"3DES":                        made(pkcs12.LegacyDES),
		"AES":                         made(pkcs12.Modern),
		"AES and PBMAC1":              made(pkcs12.Modern2026),
		"nothing encrypted":           made(pkcs12.Passwordless),
		"the authority first":         storeOf(t, open(t, certBag(t, c.ca), certBag(t, c.leaf), shrouded(t, c.key, 1, []byte{0, 0}))),
		"the encrypted part first":    storeOf(t, sealed(t, certBag(t, c.ca), certBag(t, c.leaf)), open(t, shrouded(t, c.key, 1, []byte{0, 0}))),
		"a password without its zero": storeOf(t, open(t, shrouded(t, c.key, 1, nil), certBag(t, c.leaf), certBag(t, c.ca))),
		"in lines of base64":          pem.EncodeToMemory(&pem.Block{Type: "X", Bytes: made(pkcs12.Modern)})[len("-----BEGIN X-----\n"):],
	} {
		t.Run(name, func(t *testing.T) {
			if i := bytes.Index(file, []byte("-----END")); i > 0 {
				file = file[:i]
			}
			store, err := Open(file)
			if err != nil {
				t.Fatal(err)
			}
			all := store.Chain()
			if equal, ok := store.Key.(interface{ Equal(any) bool }); ok && !equal.Equal(c.key) {
				t.Error("it is another key")
			}
			if len(all) != 2 || !all[0].Equal(c.leaf) || !all[1].Equal(c.ca) {
				t.Errorf("%d certificates, not the leaf and its authority", len(all))
			}
		})
	}
}

func TestAChainIsInTheOrderInWhichAServerSendsIt(t *testing.T) {
	c := one(t)
	other := newKey(t)
	namesake := sign(t, "ca", nil, &other.PublicKey, other) // another key of the same name
	for name, test := range map[string]struct{ file, want []*x509.Certificate }{
		"from the root down":                {[]*x509.Certificate{c.root, c.ca, c.leaf}, []*x509.Certificate{c.leaf, c.ca, c.root}},
		"in order":                          {[]*x509.Certificate{c.leaf, c.ca, c.root}, []*x509.Certificate{c.leaf, c.ca, c.root}},
		"with another key of the same name": {[]*x509.Certificate{namesake, c.root, c.ca, c.leaf}, []*x509.Certificate{c.leaf, c.ca, c.root, namesake}},
		"with a gap":                        {[]*x509.Certificate{c.root, c.leaf}, []*x509.Certificate{c.leaf, c.root}},
		"without the leaf":                  {[]*x509.Certificate{c.root, c.ca}, []*x509.Certificate{c.root, c.ca}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (&Store{c.key, test.file}).Chain(); !slices.Equal(got, test.want) {
				t.Errorf("the order is %s, want %s", names(got), names(test.want))
			}
		})
	}
}

func names(all []*x509.Certificate) (names []string) {
	for _, c := range all {
		names = append(names, c.Subject.CommonName)
	}
	return names
}

// A key store says itself how much work it is to open it.
func TestAKeyStoreCannotKeepAnybodyBusy(t *testing.T) {
	c := one(t)
	const forever = 2_000_000_000
	for name, bad := range map[string]struct {
		file []byte
		want error
	}{
		"many rounds for the key":          {storeOf(t, open(t, shrouded(t, c.key, forever, []byte{0, 0}), certBag(t, c.leaf))), ErrCostly},
		"many rounds in all":               {storeOf(t, open(t, slices.Repeat([]contentInfo{shrouded(t, c.key, maxRounds/2, []byte{0, 0})}, 3)...)), ErrCostly},
		"many rounds for a key that hides": {storeOf(t, sealed(t, certBag(t, c.leaf), shrouded(t, c.key, forever, []byte{0, 0})), open(t, shrouded(t, c.key, 1, []byte{0, 0}))), ErrPassword},
		"all keys hide":                    {storeOf(t, sealed(t, certBag(t, c.leaf), shrouded(t, c.key, forever, []byte{0, 0}))), ErrNone},
		"a large file":                     {storeOf(t, open(t, shrouded(t, c.key, 1, []byte{0, 0}), bag(t, 3, make([]byte, maxStore)))), ErrCostly},
		"no store at all":                  {[]byte("x"), ErrNone},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Open(bad.file); !errors.Is(err, bad.want) {
				t.Errorf("Open = %v, want %v", err, bad.want)
			}
		})
	}
}

// What is encrypted, and a salt, are any bytes: none of them is a number of rounds.
func TestBytesThatLookLikeRoundsAreNone(t *testing.T) {
	text := encode(t, asn1.RawValue{Tag: asn1.TagOctetString, Bytes: []byte("saltsalt")})
	text = append(text, encode(t, 2_000_000_000)...)
	key := encode(t, struct {
		Algorithm pkix.AlgorithmIdentifier
		Data      []byte
	}{pkix.AlgorithmIdentifier{
		Algorithm:  asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 12, 1, 3},
		Parameters: asn1.RawValue{FullBytes: encode(t, pbe{text, 7})},
	}, text})
	if got := rounds(key, 0); got != 7 {
		t.Errorf("%d rounds, want 7", got)
	}
	for range 10_000 {
		_, _ = rand.Read(text)
		if got := rounds(encode(t, pbe{text, 7}), 0); got != 7 {
			t.Fatalf("%d rounds with the salt %x, want 7", got, text)
		}
	}
}

// A MAC may ask for any amount of memory; it proves nothing and is not looked at.
func TestAMACIsNotLookedAt(t *testing.T) {
	c := one(t)
	var data struct {
		Digest struct {
			Algorithm pkix.AlgorithmIdentifier
			Sum       []byte
		}
		Salt []byte
	}
	data.Digest.Algorithm.Algorithm = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 5, 14} // PBMAC1
	mac := encode(t, data)
	file, err := pack(encode(t, []contentInfo{open(t, shrouded(t, c.key, 1, []byte{0, 0}), certBag(t, c.leaf))}), mac)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file); err != nil {
		t.Error(err)
	}
}

// Whatever a file is, opening it ends.
func FuzzOpen(f *testing.F) {
	c := one(f)
	f.Add(c.store(f))
	f.Add([]byte(base64.StdEncoding.EncodeToString(c.store(f))))
	f.Add(storeOf(f, sealed(f, certBag(f, c.leaf)), open(f, shrouded(f, c.key, 1, nil))))
	f.Fuzz(func(t *testing.T, file []byte) {
		store, err := Open(file)
		if err == nil && (store.Key == nil || len(store.Chain()) == 0) {
			t.Errorf("Open = %T, %d certificates", store.Key, len(store.Certificates))
		}
	})
}
