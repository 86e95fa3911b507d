package secretobject

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/keystore"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

func files(contents map[string]string) (all []provider.File) {
	for path, content := range contents {
		all = append(all, provider.File{Path: path, Data: secret.New([]byte(content))})
	}
	return all
}

// plain returns what a Secret would hold.
func plain(s Secret) map[string]string {
	data := make(map[string]string)
	for key, value := range s.Data {
		data[key] = string(value.Reveal())
	}
	return data
}

func TestASecretHasWhatItsClassAsks(t *testing.T) {
	got, err := New(class.SecretObject{
		SecretName: " copy ", Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "1"},
		Data: []class.SecretData{{ObjectName: " db/password", Key: "password "}, {ObjectName: "raw", Key: "raw"}, {ObjectName: "raw", Key: "again"}},
	}, files(map[string]string{"db/password": "p\n", "raw": "\x00\xff"}))
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "copy" || got.Type != "Opaque" || got.Labels["l"] != "1" || got.Annotations["a"] != "1" {
		t.Errorf("New = %+v", got)
	}
	if diff := cmp.Diff(map[string]string{"password": "p\n", "raw": "\x00\xff", "again": "\x00\xff"}, plain(got)); diff != "" {
		t.Errorf("data (-want +got):\n%s", diff)
	}
}

func TestAMistakeIsNamedWithoutContent(t *testing.T) {
	const canary = "canary-5b1f"
	for _, c := range []struct {
		name   string
		change func(o *class.SecretObject)
		want   string
	}{
		{"no name", func(o *class.SecretObject) { o.SecretName = " " }, "secretName is empty"},
		{"no data", func(o *class.SecretObject) { o.Data = nil }, "data is empty"},
		{"no key", func(o *class.SecretObject) { o.Data[1].Key = "" }, "data[1]: key is empty"},
		{"no object", func(o *class.SecretObject) { o.Data[1].ObjectName = "\t" }, `data[1]: objectName of key "b" is empty`},
		{"a key twice", func(o *class.SecretObject) { o.Data[1].Key = "a" }, `data[0] and data[1]: key "a" is given twice`},
		{"a Secret that Kubernetes fills", func(o *class.SecretObject) { o.Type = "kubernetes.io/service-account-token" }, "Kubernetes itself fills Secrets"},
		{"registry credentials that are none", func(o *class.SecretObject) {
			o.Type, o.Data[1].Key = "kubernetes.io/dockerconfigjson", ".dockerconfigjson"
		}, "it is no JSON object"},
		{"old registry credentials that are none", func(o *class.SecretObject) { o.Type, o.Data[1].Key = "kubernetes.io/dockercfg", ".dockercfg" }, "it is no JSON object"},
		{"a file that is not there", func(o *class.SecretObject) { o.Data[1].ObjectName = "c" }, `objectName "c": the volume has no such file`},
		{"too much", func(o *class.SecretObject) { o.Data[1].ObjectName = "large" }, "at most 1048576"},
		{"no certificate", func(o *class.SecretObject) { o.Type, o.Data[1].Key = "kubernetes.io/tls", "tls.crt" }, "tls.crt: it holds no certificate"},
		{"no CA", func(o *class.SecretObject) { o.Type, o.Data[1].Key = "kubernetes.io/tls", "ca.crt" }, "ca.crt: it holds no certificate"},
		{"no private key", func(o *class.SecretObject) { o.Type, o.Data[1].Key = "kubernetes.io/tls", "tls.key" }, "tls.key: it holds no private key"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := class.SecretObject{SecretName: "copy", Data: []class.SecretData{{ObjectName: "a", Key: "a"}, {ObjectName: "b", Key: "b"}}}
			c.change(&o)
			_, err := New(o, files(map[string]string{"a": canary, "b": canary, "large": strings.Repeat("x", 1<<20)}))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), canary) {
				t.Errorf("New = %v, want %q and no content", err, c.want)
			}
		})
	}
}

// A chain is a leaf and its authority.
type chain struct {
	key      any
	leaf, ca *x509.Certificate
}

func newChain(t testing.TB, key interface{ Public() any }, private any) chain {
	t.Helper()
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(name string, isCA bool, parent *x509.Certificate, public any) *x509.Certificate {
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: isCA, BasicConstraintsValid: true,
			NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		}
		if parent == nil {
			parent = template
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, public, caKey)
		if err != nil {
			t.Fatal(err)
		}
		made, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return made
	}
	ca := sign("ca", true, nil, caKey.Public())
	return chain{private, sign("leaf", false, ca, key.Public()), ca}
}

type public struct{ key any }

func (p public) Public() any { return p.key }

// keys are one of each kind.
func keys(t testing.TB) map[string]chain {
	t.Helper()
	rsaKey, err1 := rsa.GenerateKey(rand.Reader, 2048)
	ecKey, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, edKey, err3 := ed25519.GenerateKey(rand.Reader)
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return map[string]chain{
		"RSA PRIVATE KEY": newChain(t, public{rsaKey.Public()}, rsaKey),
		"EC PRIVATE KEY":  newChain(t, public{ecKey.Public()}, ecKey),
		"PRIVATE KEY":     newChain(t, public{edKey.Public()}, edKey),
	}
}

func block(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func (c chain) pkcs8(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		t.Fatal(err)
	}
	return block("PRIVATE KEY", der)
}

// store returns the chain as a PKCS#12 file of today.
func (c chain) store(t testing.TB, password string) string {
	t.Helper()
	der, err := pkcs12.Modern.Encode(c.key, c.leaf, []*x509.Certificate{c.ca}, password)
	if err != nil {
		t.Fatal(err)
	}
	return string(der)
}

func TestATLSSecretIsTakenApart(t *testing.T) {
	for kind, c := range keys(t) {
		both := block("CERTIFICATE", c.leaf.Raw) + block("CERTIFICATE", c.ca.Raw)
		for form, file := range map[string]string{
			"PEM, key first":   c.pkcs8(t) + both,
			"PEM, key last":    "# a comment\n" + both + c.pkcs8(t),
			"PKCS#12":          c.store(t, ""),
			"PKCS#12 as text":  base64.StdEncoding.EncodeToString([]byte(c.store(t, ""))) + "\n",
			"PEM, with params": block("EC PARAMETERS", []byte{6, 8}) + c.pkcs8(t) + both + block("EC PARAMETERS", []byte{6, 8}),
		} {
			t.Run(kind+" in "+form, func(t *testing.T) {
				got, err := New(class.SecretObject{SecretName: "s", Type: "kubernetes.io/tls", Data: []class.SecretData{
					{ObjectName: "f", Key: "tls.crt"}, {ObjectName: "f", Key: "tls.key"}, {ObjectName: "f", Key: "ca.crt"}, {ObjectName: "f", Key: "whole"},
				}}, files(map[string]string{"f": file}))
				if err != nil {
					t.Fatal(err)
				}
				data := plain(got)
				if data["tls.crt"] != both {
					t.Errorf("tls.crt is not leaf and authority:\n%s", data["tls.crt"])
				}
				if !strings.HasSuffix(data["ca.crt"], block("CERTIFICATE", c.ca.Raw)) || data["whole"] != file {
					t.Errorf("ca.crt:\n%s", data["ca.crt"])
				}
				decoded, rest := pem.Decode([]byte(data["tls.key"]))
				if decoded == nil || len(rest) > 0 || decoded.Type != kind {
					t.Fatalf("tls.key is no block %s", kind)
				}
				key, err := parseKey(decoded.Bytes)
				if equal, ok := key.(interface{ Equal(any) bool }); err != nil || ok && !equal.Equal(c.key) {
					t.Errorf("tls.key is another key: %v", err)
				}
			})
		}
	}
}

func TestKeysThatCannotBeUsed(t *testing.T) {
	var c chain
	for _, c = range keys(t) {
		break
	}
	cert := block("CERTIFICATE", c.leaf.Raw)
	for _, bad := range []struct {
		name, key, file string
		want            error
	}{
		{"encrypted in PKCS#8", "tls.key", block("ENCRYPTED PRIVATE KEY", []byte("x")), errEncrypted},
		{"encrypted as openssl once did", "tls.key", "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n", errEncrypted},
		{"damaged", "tls.key", block("RSA PRIVATE KEY", []byte("no key")), errKey},
		{"a certificate alone", "tls.key", cert, errNoKey},
		{"PKCS#12 with a password", "tls.key", c.store(t, "p"), keystore.ErrPassword},
		{"a key alone", "tls.crt", c.pkcs8(t), errNoCertificate},
		{"a damaged certificate", "tls.crt", cert + block("CERTIFICATE", []byte("x")), errCertificate},
		{"PKCS#12 with a password, for its certificate", "tls.crt", c.store(t, "p"), keystore.ErrPassword},
	} {
		t.Run(bad.name, func(t *testing.T) {
			_, err := New(class.SecretObject{SecretName: "s", Type: "kubernetes.io/tls", Data: []class.SecretData{{ObjectName: "f", Key: bad.key}}},
				files(map[string]string{"f": bad.file}))
			if err == nil || !strings.Contains(err.Error(), bad.want.Error()) {
				t.Errorf("New = %v, want %v", err, bad.want)
			}
		})
	}
}

// Whatever a store holds, what comes out can be read again, or nothing does.
func FuzzTLS(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	c := newChain(f, public{key.Public()}, key)
	f.Add([]byte(c.pkcs8(f) + block("CERTIFICATE", c.leaf.Raw)))
	f.Add([]byte(base64.StdEncoding.EncodeToString([]byte("x"))))
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, file []byte) {
		if out, err := certificates(file, false); err == nil {
			if _, err := certificates(out, false); err != nil {
				t.Errorf("certificates that were written cannot be read: %v", err)
			}
		}
		if out, err := privateKey(file); err == nil {
			again, err := privateKey(out)
			if err != nil || string(again) != string(out) {
				t.Errorf("a key that was written reads as another: %v", err)
			}
		}
	})
}

// To read a key takes time that grows with the square of its size.
func TestAKeyThatIsTooLargeIsNotRead(t *testing.T) {
	if _, err := parseKey(make([]byte, maxKey+1)); !errors.Is(err, errKey) {
		t.Errorf("parseKey = %v, want %v", err, errKey)
	}
}
