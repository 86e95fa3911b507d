package azure

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/keymount/keymount/pkg/keystore"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/azure/azuretest"
)

// A chain is a key with its certificate, an intermediate and a root.
type chain struct {
	key            crypto.Signer
	leaf, ca, root *x509.Certificate
}

func newChain(t testing.TB, key crypto.Signer) chain {
	t.Helper()
	rootKey, caKey := newKey(t), newKey(t)
	root := sign(t, "root", nil, rootKey.Public(), rootKey, time.Hour)
	ca := sign(t, "ca", root, caKey.Public(), rootKey, time.Hour)
	return chain{key, sign(t, "leaf", ca, key.Public(), caKey, time.Hour), ca, root}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRSAKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// sign returns a certificate of the key, by the parent; nil: by itself.
func sign(t testing.TB, name string, parent *x509.Certificate, public crypto.PublicKey, by crypto.Signer, life time.Duration) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IsCA: name != "leaf", BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(life),
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

func (c chain) keyPEM(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func pems(certificates ...*x509.Certificate) string {
	var text strings.Builder
	for _, c := range certificates {
		text.Write(certificatePEM(c.Raw))
	}
	return text.String()
}

func ders(certificates ...*x509.Certificate) (all [][]byte) {
	for _, c := range certificates {
		all = append(all, c.Raw)
	}
	return all
}

const web = "{objectName: web, objectType: secret, "

func TestWhatCertificatesBecome(t *testing.T) {
	for keyName, key := range map[string]crypto.Signer{"RSA": newRSAKey(t), "EC": newKey(t)} {
		c := newChain(t, key)
		k := c.keyPEM(t)
		inOrder, stored := pems(c.leaf, c.ca, c.root), pems(c.root, c.ca, c.leaf)
		backwards := ders(c.root, c.ca, c.leaf)
		for _, test := range []struct {
			name    string
			opts    Options
			put     azuretest.Certificate
			objects string
			want    map[string]string
		}{
			{"PKCS#12 becomes PEM in the order of a server", Options{}, azuretest.Certificate{Chain: backwards, PFX: true}, "[" + web + "}]", map[string]string{"web": k + inOrder}},
			{"or in its own", Options{KeepOrder: true}, azuretest.Certificate{Chain: backwards, PFX: true}, "[" + web + "}]", map[string]string{"web": k + pems(c.leaf, c.root, c.ca)}}, // azuretest writes the leaf first
			{"of today's programs, too", Options{}, azuretest.Certificate{Chain: backwards, PFX: true, Encoder: pkcs12.Modern2026}, "[" + web + "}]", map[string]string{"web": k + inOrder}},
			{"PEM stays as it is", Options{}, azuretest.Certificate{Chain: backwards}, "[" + web + "}]", map[string]string{"web": k + stored}},
			{"parts in files of their own", Options{}, azuretest.Certificate{Chain: backwards, PFX: true}, "[" + web + "separateFiles: true, objectAlias: tls}]",
				map[string]string{"tls": k + inOrder, "tls.crt": inOrder, "tls.key": k}},
			{"by the flag", Options{SeparateFiles: true}, azuretest.Certificate{Chain: backwards}, "[" + web + "}]", map[string]string{"web": k + stored, "web.crt": stored, "web.key": k}},
			{"an old version of it", Options{}, azuretest.Certificate{Chain: backwards, PFX: true}, "[" + web + "objectVersionHistory: 2, separateFiles: true}]",
				map[string]string{"web/0": k + inOrder, "web/0.crt": inOrder, "web/0.key": k, "web/1": k + inOrder, "web/1.crt": inOrder, "web/1.key": k}},
			{"the certificate alone", Options{}, azuretest.Certificate{Chain: ders(c.leaf, c.ca), PFX: true}, list("cert", "web"), map[string]string{"web": pems(c.leaf)}},
			{"the public key alone", Options{}, azuretest.Certificate{Chain: ders(c.leaf)}, list("key", "web"), map[string]string{"web": publicPEM(t, key.Public())}},
		} {
			t.Run(keyName+": "+test.name, func(t *testing.T) {
				b := newBackendOf(t, nil, &test.opts)
				test.put.Key = c.key
				b.vault.PutCertificate("web", test.put)
				b.vault.PutCertificate("web", test.put)
				expect(t, "files", contents(b.fetch(t, b.ask(test.objects))), test.want)
			})
		}
	}
}

func publicPEM(t testing.TB, key crypto.PublicKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func TestAPFXIsWrittenAsItIsStored(t *testing.T) {
	c := newChain(t, newRSAKey(t))
	b := newBackend(t)
	b.vault.PutCertificate("web", azuretest.Certificate{Chain: ders(c.leaf, c.ca), Key: c.key, PFX: true})
	files := contents(b.fetch(t, b.ask("["+web+"objectFormat: PFX, objectAlias: text}, "+web+"objectFormat: pfx, objectEncoding: base64, objectAlias: bytes}]")))
	if files["text"] != base64.StdEncoding.EncodeToString([]byte(files["bytes"])) {
		t.Error("the two forms are not the same file")
	}
	key, leaf, _, err := pkcs12.DecodeChain([]byte(files["bytes"]), "")
	if err != nil || !leaf.Equal(c.leaf) || !c.key.(*rsa.PrivateKey).Equal(key.(crypto.PrivateKey)) {
		t.Errorf("it holds something else: %v", err)
	}
}

func TestAPFXWithAPassword(t *testing.T) {
	c := newChain(t, newKey(t))
	const object = "[" + web + "objectFormat: pfx, objectEncoding: base64, passwordObject: password}]"
	for name, put := range map[string]azuretest.Certificate{
		"of PKCS#12": {Chain: ders(c.root, c.leaf, c.ca), Key: c.key, PFX: true},
		"of PEM":     {Chain: ders(c.root, c.leaf, c.ca), Key: c.key},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t)
			b.vault.PutCertificate("web", put)
			b.vault.PutSecret("password", "pässword 1")
			held := b.fetch(t, b.ask(object))
			file := contents(held)["web"]
			key, leaf, more, err := pkcs12.DecodeChain([]byte(file), "pässword 1")
			if err != nil || !leaf.Equal(c.leaf) || len(more) != 2 || !more[0].Equal(c.ca) || !c.key.(*ecdsa.PrivateKey).Equal(key.(crypto.PrivateKey)) {
				t.Errorf("it holds something else: %v", err)
			}
			if _, err := keystore.Open([]byte(file)); !errors.Is(err, keystore.ErrPassword) {
				t.Errorf("without the password: %v", err)
			}
			expect(t, "a second fetch of the same", contents(b.fetch(t, b.ask(object))), contents(held))
			b.poll(t, b.ask(object), held)
			b.vault.PutSecret("password", "another")
			req := b.ask(object)
			req.Held.Versions = held.Versions
			changed := b.fetch(t, req)
			if _, _, _, err := pkcs12.DecodeChain([]byte(contents(changed)["web"]), "another"); err != nil || changed.Unchanged {
				t.Errorf("a new password is not that of the file: %v", err)
			}
		})
	}
}

func TestSecretsThatPeopleStored(t *testing.T) {
	b := newBackend(t)
	c := newChain(t, newKey(t))
	der, err := pkcs12.Modern.Encode(c.key, c.leaf, nil, "x")
	if err != nil {
		t.Fatal(err)
	}
	uploaded := base64.StdEncoding.EncodeToString(der)
	b.vault.PutSecretWith("uploaded", azuretest.Secret{Value: uploaded, ContentType: pfxType})
	b.vault.PutSecret("hex", "00ff")
	b.vault.PutSecret("empty", "")
	expect(t, "files", contents(b.fetch(t, b.ask(list("secret", "uploaded", "empty")+
		"- {objectName: uploaded, objectType: secret, objectAlias: bytes, objectEncoding: base64, separateFiles: true}\n- {objectName: hex, objectType: secret, objectEncoding: hex}"))),
		map[string]string{"uploaded": uploaded, "bytes": string(der), "hex": "\x00\xff", "empty": ""})
}

func TestContentThatIsNotWhatTheClassSays(t *testing.T) {
	c := newChain(t, newKey(t))
	for _, test := range []struct {
		name, objects string
		put           func(v *azuretest.Vault)
		want          string
	}{
		{"no base64", "[{objectName: db, objectType: secret, objectEncoding: base64}]", func(v *azuretest.Vault) { v.PutSecret("db", "canary!") }, "objects[0]: vault kv1: secret/db"},
		{"PEM as PFX", "[" + web + "objectFormat: pfx}]", func(v *azuretest.Vault) {
			v.PutCertificate("web", azuretest.Certificate{Chain: ders(c.leaf), Key: c.key})
		}, "cannot be written as PFX without passwordObject"},
		{"a key that is symmetric", list("key", "k"), func(v *azuretest.Vault) { v.PutKey("k", azuretest.Key{Type: "oct"}) }, "key type 'oct' currently not supported"},
		{"a key on a curve of its own", list("key", "k"), func(v *azuretest.Vault) {
			v.PutKey("k", azuretest.Key{Type: "EC", Curve: "P-256K", X: []byte{1}, Y: []byte{2}})
		}, "curve P-256K is not supported"},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := newBackend(t)
			test.put(b.vault)
			_, err := b.provider.Fetch(t.Context(), b.ask(test.objects))
			if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(fmt.Sprint(err), test.want) || strings.Contains(fmt.Sprint(err), "canary") {
				t.Errorf("Fetch = %v, want %q", err, test.want)
			}
		})
	}
}

func TestKeysOfAllKinds(t *testing.T) {
	b := newBackend(t)
	want := make(map[string]string)
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []string{"EC", "EC-HSM"} {
			name := strings.ToLower(kind + "-" + curve.Params().Name)
			b.vault.PutKey(name, azuretest.Key{Public: key.Public(), Type: kind})
			want[name] = publicPEM(t, key.Public())
		}
	}
	key := newRSAKey(t)
	for _, kind := range []string{"RSA", "RSA-HSM"} {
		b.vault.PutKey(strings.ToLower(kind), azuretest.Key{Public: key.Public(), Type: kind})
		want[strings.ToLower(kind)] = publicPEM(t, key.Public())
	}
	expect(t, "files", contents(b.fetch(t, b.ask(list("key", slices.Sorted(maps.Keys(want))...)))), want)
}

// Whatever numbers an answer has, they make a key, or an error.
func FuzzPublicKey(f *testing.F) {
	f.Add("RSA", "", []byte{1, 2, 3}, []byte{1, 0, 1})
	f.Add("EC", "P-256", bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{9}, 32))
	f.Add("EC-HSM", "P-521", []byte{}, []byte{1})
	f.Add("oct", "", []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, kind, curve string, a, b []byte) {
		k := &azkeys.JSONWebKey{Kty: new(azkeys.KeyType(kind)), Crv: new(azkeys.CurveName(curve)), N: a, E: b, X: a, Y: b}
		key, err := publicKey(k)
		if err != nil {
			return
		}
		if _, err := x509.MarshalPKIXPublicKey(key); err != nil {
			t.Errorf("it makes no key that can be written: %v", err)
		}
	})
}
