package azuretest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azcertificates"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/keymount/keymount/providers/azure/azuretest"
)

func TestKeysArePublic(t *testing.T) {
	s := newShop(t, nil)
	v, c := s.Vault("kv1"), newClient(t, s)
	get := func(name string) azkeys.KeyBundle {
		t.Helper()
		return must[azkeys.GetKeyResponse](t)(c.keys.GetKey(t.Context(), name, "", nil)).KeyBundle
	}
	ofRSA := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	expires := time.Now().Add(time.Hour).Truncate(time.Second).UTC()
	version := v.PutKey("rsa", azuretest.Key{Public: ofRSA.Public(), Expires: expires})
	got := get("rsa")
	expect(t, "type", *got.Key.Kty, azkeys.KeyTypeRSA)
	expect(t, "key ID", string(*got.Key.KID), kv1+"/keys/rsa/"+version)
	expect(t, "expires", *got.Attributes.Expires, expires)
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(got.Key.N), E: int(new(big.Int).SetBytes(got.Key.E).Int64())}
	expect(t, "is the key", public.Equal(ofRSA.Public()), true)
	v.PutKey("rsa", azuretest.Key{Public: ofRSA.Public(), Type: "RSA-HSM"})
	expect(t, "type of the next version", *get("rsa").Key.Kty, azkeys.KeyTypeRSAHSM)

	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(curve, rand.Reader))
		v.PutKey("ec", azuretest.Key{Public: key.Public()})
		got := get("ec").Key
		point := append(append([]byte{4}, got.X...), got.Y...)
		expect(t, "curve", string(*got.Crv), curve.Params().Name)
		expect(t, "is the key", must[*ecdsa.PublicKey](t)(ecdsa.ParseUncompressedPublicKey(curve, point)).Equal(key.Public()), true)
	}
	v.PutKey("koblitz", azuretest.Key{Curve: "P-256K", X: []byte{1}, Y: []byte{2}})
	expect(t, "curve", *get("koblitz").Key.Crv, azkeys.CurveNameP256K)
	off := v.PutKey("secret", azuretest.Key{Type: "oct-HSM"})
	expect(t, "type", *get("secret").Key.Kty, azkeys.KeyTypeOctHSM)
	v.Disable("keys", "secret", off)
	refused(t, second(c.keys.GetKey(t.Context(), "secret", "", nil)), "Forbidden: Forbidden", `"KeyDisabled"`)
	refused(t, second(c.keys.GetKey(t.Context(), "none", "", nil)), "Not Found: KeyNotFound", "A key with (name/id) none")
}

// chainOf returns a root, an intermediate and a leaf.
func chainOf(t testing.TB, key crypto.Signer) (root, middle, leaf *issued) {
	root = issue(t, "root", newKey(t), nil)
	middle = issue(t, "middle", newKey(t), root)
	return root, middle, issue(t, "shop", key, middle)
}

func TestACertificateIsAKeyAndASecretAsWell(t *testing.T) {
	s := newShop(t, nil)
	v, c := s.Vault("kv1"), newClient(t, s)
	key := newKey(t)
	root, middle, leaf := chainOf(t, key)
	v.PutCertificate("tls", azuretest.Certificate{Chain: [][]byte{leaf.Raw}, Key: key})
	version := v.PutCertificate("tls", azuretest.Certificate{Chain: [][]byte{root.Raw, leaf.Raw, middle.Raw}, Key: key})

	got := must[azcertificates.GetCertificateResponse](t)(c.certificates.GetCertificate(t.Context(), "tls", "", nil))
	expect(t, "certificate", got.CER, leaf.Raw)
	expect(t, "ID", string(*got.ID), kv1+"/certificates/tls/"+version)
	expect(t, "expires", *got.Attributes.Expires, leaf.NotAfter)
	expect(t, "content type", *got.Policy.SecretProperties.ContentType, "application/x-pem-file")
	secret := must[azsecrets.GetSecretResponse](t)(c.secrets.GetSecret(t.Context(), got.SID.Name(), got.SID.Version(), nil))
	expect(t, "key of the secret", string(*secret.KID), kv1+"/keys/tls/"+version)
	expect(t, "content type", *secret.ContentType, "application/x-pem-file")
	expect(t, "expires", *secret.Attributes.Expires, leaf.NotAfter)
	var types []string
	var ders [][]byte
	for block, rest := pem.Decode([]byte(*secret.Value)); block != nil; block, rest = pem.Decode(rest) {
		types, ders = append(types, block.Type), append(ders, block.Bytes)
	}
	expect(t, "blocks", types, []string{"PRIVATE KEY", "CERTIFICATE", "CERTIFICATE", "CERTIFICATE"})
	expect(t, "is the key", key.(*ecdsa.PrivateKey).Equal(must[any](t)(x509.ParsePKCS8PrivateKey(ders[0]))), true)
	expect(t, "certificates", ders[1:], [][]byte{root.Raw, leaf.Raw, middle.Raw})
	public := must[azkeys.GetKeyResponse](t)(c.keys.GetKey(t.Context(), got.KID.Name(), got.KID.Version(), nil))
	expect(t, "key ID", string(*public.Key.KID), string(*got.KID))
	expect(t, "key is the certificate's", *public.Managed, true)

	v.Disable("certificates", "tls", version)
	got = must[azcertificates.GetCertificateResponse](t)(c.certificates.GetCertificate(t.Context(), "tls", "", nil))
	expect(t, "a disabled certificate is enabled", *got.Attributes.Enabled, false)
	refused(t, second(c.secrets.GetSecret(t.Context(), "tls", version, nil)), "Forbidden: Forbidden", `"SecretDisabled"`)
	refused(t, second(c.keys.GetKey(t.Context(), "tls", version, nil)), "Forbidden: Forbidden", `"KeyDisabled"`)
	v.Delete("tls")
	refused(t, second(c.certificates.GetCertificate(t.Context(), "tls", "", nil)), "Not Found: CertificateNotFound", "")
	refused(t, second(c.secrets.GetSecret(t.Context(), "tls", "", nil)), "Not Found: SecretNotFound", "")
}

func TestACertificateMayBeAPFX(t *testing.T) {
	s := newShop(t, nil)
	v, c := s.Vault("kv1"), newClient(t, s)
	key := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	root, middle, leaf := chainOf(t, key)
	chain := [][]byte{leaf.Raw, middle.Raw, root.Raw}
	expires := time.Now().Add(-time.Hour).Truncate(time.Second).UTC()
	for _, encoder := range []*pkcs12.Encoder{nil, pkcs12.Modern} {
		v.PutCertificate("tls", azuretest.Certificate{Chain: chain, Key: key, PFX: true, Encoder: encoder, Expires: expires})
		secret := must[azsecrets.GetSecretResponse](t)(c.secrets.GetSecret(t.Context(), "tls", "", nil))
		expect(t, "content type", *secret.ContentType, "application/x-pkcs12")
		expect(t, "expires", *secret.Attributes.Expires, expires)
		private, cert, others, err := pkcs12.DecodeChain(must[[]byte](t)(base64.StdEncoding.DecodeString(*secret.Value)), "")
		if err != nil {
			t.Fatal(err)
		}
		expect(t, "is the key", key.Equal(private), true)
		expect(t, "certificates", [][]byte{cert.Raw, others[0].Raw, others[1].Raw}, chain)
	}
}

func TestWhatIsInAVaultIsListed(t *testing.T) {
	s := newShop(t, &azuretest.Options{PageSize: 1})
	v, c := s.Vault("kv1"), newClient(t, s)
	key := newKey(t)
	leaf := issue(t, "shop", key, nil)
	v.PutSecretWith("Db", azuretest.Secret{Value: "canary", ContentType: "text/plain"})
	v.PutSecret("db", "canary")
	v.PutKey("signing", azuretest.Key{Public: key.Public()})
	v.PutCertificate("tls", azuretest.Certificate{Chain: [][]byte{leaf.Raw}, Key: key})
	var got []string
	for p := c.secrets.NewListSecretPropertiesPager(nil); p.More(); {
		for _, one := range must[azsecrets.ListSecretPropertiesResponse](t)(p.NextPage(t.Context())).Value {
			got = append(got, string(*one.ID))
		}
	}
	for p := c.keys.NewListKeyPropertiesPager(nil); p.More(); {
		for _, one := range must[azkeys.ListKeyPropertiesResponse](t)(p.NextPage(t.Context())).Value {
			got = append(got, string(*one.KID))
		}
	}
	for p := c.certificates.NewListCertificatePropertiesPager(nil); p.More(); {
		for _, one := range must[azcertificates.ListCertificatePropertiesResponse](t)(p.NextPage(t.Context())).Value {
			got = append(got, string(*one.ID))
		}
	}
	for p := c.keys.NewListKeyPropertiesVersionsPager("tls", nil); p.More(); {
		for _, one := range must[azkeys.ListKeyPropertiesVersionsResponse](t)(p.NextPage(t.Context())).Value {
			got = append(got, strings.TrimSuffix(string(*one.KID), one.KID.Version()))
		}
	}
	expect(t, "lists", got, []string{kv1 + "/secrets/Db", kv1 + "/secrets/tls", kv1 + "/keys/signing", kv1 + "/keys/tls", kv1 + "/certificates/tls", kv1 + "/keys/tls/"})
	expect(t, "calls", []int{s.Count("secrets/list"), s.Count("keys/list"), s.Count("certificates/list"), s.Count("keys/versions")}, []int{2, 2, 1, 1})
}

// complaints is a test that only collects what it is told.
type complaints struct {
	testing.TB
	all []string
}

func (c *complaints) Helper() {}
func (c *complaints) Errorf(format string, args ...any) {
	c.all = append(c.all, format)
}

func TestATestThatMeansNothingIsTold(t *testing.T) {
	told := &complaints{TB: t}
	s := azuretest.New(told, nil)
	v := s.Vault("kv1")
	other := issue(t, "shop", newKey(t), nil)
	for what, do := range map[string]func(){
		"the name of a vault":            func() { s.Vault("a--b") },
		"a short name of a vault":        func() { s.Vault("kv") },
		"the name of a secret":           func() { v.PutSecret("a_b", "x") },
		"a key of another kind":          func() { v.PutKey("a", azuretest.Key{Public: ed25519.PublicKey{}}) },
		"a certificate of another key":   func() { v.PutCertificate("a", azuretest.Certificate{Chain: [][]byte{other.Raw}, Key: newKey(t)}) },
		"a certificate without a key":    func() { v.PutCertificate("a", azuretest.Certificate{Chain: [][]byte{other.Raw}}) },
		"a certificate that is none":     func() { v.PutCertificate("a", azuretest.Certificate{Chain: [][]byte{{1}}, Key: other.key}) },
		"a version that is not there":    func() { v.Disable("secrets", "a", "b") },
		"an operation that is forbidden": func() { v.Deny(shop, "secrets/versions", "") },
		"an operation that fails":        func() { s.Entra().Fail("secrets/get", azuretest.Fault{Status: 429}) },
		"an issuer without keys":         func() { s.Trust("https://issuer.example", []byte(`{"keys":[]}`)) },
	} {
		told.all = nil
		do()
		expect(t, "complaints about "+what, len(told.all), 1)
	}
}
