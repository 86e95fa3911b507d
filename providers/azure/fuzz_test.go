package azure

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// FuzzEnvironmentFile gives arbitrary bytes as a file that describes a cloud:
// vaults are hosts of the domain that it names, or there is an error that shows
// nothing of it.
func FuzzEnvironmentFile(f *testing.F) {
	const canary = "canary-5b7e"
	for _, seed := range []string{
		"", "null", "[]", `{"activeDirectoryEndpoint":"https://login.x/","keyVaultDNSSuffix":"vault.x","resourceIdentifiers":{"keyVault":"https://vault.x/"}}`,
		"\xef\xbb\xbf" + `{"activeDirectoryEndpoint":"https://login","keyVaultDNSSuffix":"vault"}`, `{"activeDirectoryEndpoint":"http://x","keyVaultDNSSuffix":"x"}`,
		`{"activeDirectoryEndpoint":"https://user:x@login?q#f","keyVaultDNSSuffix":"x/y"}`, `{"activeDirectoryEndpoint":"https://[x","keyVaultDNSSuffix":"x..y"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		name := filepath.Join(t.TempDir(), "environment.json")
		if err := os.WriteFile(name, bytes.ReplaceAll(text, []byte("x"), []byte(canary)), 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := readCloud(name)
		if err != nil {
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error shows the file: %v", err)
			}
			return
		}
		authority, err := url.Parse(c.configuration().ActiveDirectoryAuthorityHost)
		if err != nil || authority.Scheme != "https" || authority.Host == "" {
			t.Errorf("logins are at %q", c.authority)
		}
		vault, err := url.Parse(c.vault("Name"))
		if err != nil || vault.Scheme != "https" || vault.Host != "name."+c.suffix || vault.Path != "/" || vault.User != nil {
			t.Errorf("the vault is at %q, %v", c.vault("Name"), err)
		}
	})
}

// FuzzCertificate gives arbitrary bytes as what a vault holds of a certificate,
// in each form that a class may ask for: certificates and keys do not mix,
// nobody reads a protected file without its password, equal content makes
// equal files; or there is an error without content.
func FuzzCertificate(f *testing.F) {
	const canary = "canary-5b7e"
	c := newChain(f, newKey(f))
	pfx, err := pkcs12.LegacyRC2.Encode(c.key, c.leaf, nil, "")
	if err != nil {
		f.Fatal(err)
	}
	key := keyPEM(f, c)
	for _, format := range []string{pemType, pfxType, "text/x"} {
		f.Add(format, slices.Concat(key, certificatePEM(c.leaf.Raw)), "p")
		f.Add(format, []byte(base64.StdEncoding.EncodeToString(pfx)), "\xff")
		f.Add(format, pfx, strings.Repeat("p", 300))
		f.Add(format, []byte("x!\n-----BEGIN CERTIFICATE-----\nx!\n-----END CERTIFICATE-----\n"), "")
	}
	f.Fuzz(func(t *testing.T, format string, stored []byte, password string) {
		data := secret.New(bytes.ReplaceAll(stored, []byte("x!"), []byte(canary)))
		held := content{data: &data, format: format, managed: true}
		for _, o := range []*object{
			{kind: secretKind, file: "a", separate: true}, {kind: secretKind, file: "a", pfx: true}, {kind: secretKind, file: "a", pfx: true, password: "p"},
		} {
			files, err := o.files(held, 0, secret.New([]byte(password)), false)
			if err != nil {
				if provider.Reason(err) == "Internal" || strings.Contains(err.Error(), canary) && !strings.Contains(format, canary) {
					t.Errorf("the error is %v", err)
				}
				continue
			}
			again, err := o.files(held, 0, secret.New([]byte(password)), false)
			if err != nil || len(again) != len(files) || !again[0].Data.Equal(files[0].Data) {
				t.Errorf("the same content makes another file, %v", err)
			}
			checkCertificate(t, o, files, password)
		}
	})
}

// keyPEM returns the key of a chain.
func keyPEM(t testing.TB, c chain) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der})
}

// checkCertificate checks the files of one object.
func checkCertificate(t *testing.T, o *object, files []provider.File, password string) {
	t.Helper()
	for _, file := range files {
		text := file.Data.Reveal()
		for block, rest := pem.Decode(text); block != nil && file.Path != "a"; block, rest = pem.Decode(rest) {
			if (block.Type == certificateBlock) != strings.HasSuffix(file.Path, certificateEnd) {
				t.Errorf("%s has a %s", file.Path, block.Type)
			}
		}
	}
	if o.password == "" {
		return
	}
	raw, err := base64.StdEncoding.DecodeString(string(files[0].Data.Reveal()))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := pkcs12.DecodeChain(raw, password); err != nil {
		t.Errorf("its password does not open it: %v", err)
	}
	if _, _, _, err := pkcs12.DecodeChain(raw, password+"!"); err == nil {
		t.Error("another password opens it")
	}
}

// FuzzClientCertificate gives arbitrary bytes as the certificate of a service
// principal: there is one with its key, or an error that shows nothing of it.
func FuzzClientCertificate(f *testing.F) {
	const canary = "canary-5b7e"
	c := newChain(f, newKey(f))
	key := keyPEM(f, c)
	for _, seed := range []string{"", "x", string(key), string(key) + string(certificatePEM(c.leaf.Raw)), "-----BEGIN x-----\n-----END x-----\n", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		var i identity
		err := i.certificate(bytes.ReplaceAll(file, []byte("x"), []byte(canary)))
		switch {
		case err == nil && (len(i.certificates) == 0 || i.key == nil):
			t.Error("there is no certificate with a key, and no error")
		case err != nil && strings.Contains(err.Error(), canary):
			t.Errorf("the error shows the file: %v", err)
		}
	})
}

// FuzzRetryAfter gives arbitrary text as how long a vault wants to be left
// alone: nobody waits longer than a minute.
func FuzzRetryAfter(f *testing.F) {
	for _, text := range []string{"", "0", "-1", "30", "9223372036854775807", "99999999999999999999", "1.5", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 GMT"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if got := retryAfter(http.Header{"Retry-After": {text}}); got < 0 || got > time.Minute {
			t.Errorf("after %q, wait %v", text, got)
		}
	})
}
