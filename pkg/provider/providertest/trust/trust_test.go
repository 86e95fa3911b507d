package trust_test

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/keymount/keymount/pkg/provider/providertest/pipe"
	"github.com/keymount/keymount/pkg/provider/providertest/trust"
)

func TestAnAuthorityCertifiesEveryNameThatIsAskedFor(t *testing.T) {
	a := trust.NewAuthority(t, "test")
	inner := pipe.Listen("store:443")
	listener := a.Listen(inner)
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func(conn net.Conn) { _ = conn.(*tls.Conn).Handshake() }(conn)
		}
	}()
	shake := func(config *tls.Config) error {
		conn, err := inner.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		return tls.Client(conn, config).HandshakeContext(t.Context())
	}
	for _, name := range []string{"a.example", "b.example", "a.example"} {
		if err := shake(&tls.Config{ServerName: name, RootCAs: a.Pool(), MinVersion: tls.VersionTLS13}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := shake(&tls.Config{ServerName: "a.example", RootCAs: trust.NewAuthority(t, "other").Pool(), MinVersion: tls.VersionTLS13}); err == nil {
		t.Error("who trusts another authority trusts this one")
	}
	if text, err := os.ReadFile(a.File(t)); err != nil || !strings.HasPrefix(string(text), "-----BEGIN CERTIFICATE-----") {
		t.Errorf("the file: %v", err)
	}
}

func TestKeySets(t *testing.T) {
	key := trust.NewKey(t)
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	text := func(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }
	ec := fmt.Sprintf(`{"kty":"EC","kid":"e","crv":"P-256","x":%q,"y":%q}`, text(point[1:33]), text(point[33:]))
	number := text(new(big.Int).Lsh(big.NewInt(1), 2047).Bytes())
	keys, err := trust.ParseKeySet([]byte(`{"keys":[` + ec + `,{"kty":"RSA","kid":"r","n":"` + number + `","e":"AQAB"}]}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, ok := keys["e"].(*ecdsa.PublicKey); !ok || !got.Equal(&key.PublicKey) {
		t.Errorf("the EC key is %v", keys["e"])
	}
	if got, ok := keys["r"].(*rsa.PublicKey); !ok || got.E != 65537 {
		t.Errorf("the RSA key is %v", keys["r"])
	}
	for name, bad := range map[string]string{
		"no JSON": "x", "no key": `{"keys":[]}`, "another kind": `{"keys":[{"kty":"oct","kid":"o"}]}`, "no base64": `{"keys":[{"kty":"RSA","n":"?","e":"AQAB"}]}`,
		"another curve": `{"keys":[{"kty":"EC","crv":"P-224","x":"AA","y":"AA"}]}`,
	} {
		if _, err := trust.ParseKeySet([]byte(bad)); err == nil {
			t.Errorf("%s is a key set", name)
		}
	}
}
