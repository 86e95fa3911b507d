package file

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"testing"

	"filippo.io/age"

	"github.com/keymount/keymount/pkg/provider"
)

// canaried returns a text in which every x is a canary, and the canary.
func canaried(text string) (filled, canary string) {
	canary = "canary-5b7e"
	return strings.ReplaceAll(text, "x", canary), canary
}

// FuzzValue gives arbitrary text as a document of each format: a key is one
// value of it, the same each time, or there is an error without content.
func FuzzValue(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `{"a":{"b":"x"},"a.b":1.50}`, `{"a":"x\ud800"}`, `[x]`, `{"a": x`, "a: x\nb: [1, {c: ~}]", "a: &a x\nb: *a", "A=x\nB=\"$A ${B}\"", "export a='x'\n# c", "\uF8FF=x", "a=x\r\nb", "a:\n\tx",
	} {
		for _, key := range []string{"a", "a.b", "b", "A", strings.Repeat("a.", maxLevels+1)} {
			f.Add(seed, key)
		}
	}
	f.Fuzz(func(t *testing.T, text, key string) {
		filled, canary := canaried(text)
		for _, name := range []string{"db.json", "db.yaml", "db.env", "db.txt"} {
			d := &document{file: name, text: []byte(filled)}
			value, err := d.value(key)
			if err != nil {
				if provider.Reason(err) == "Internal" || strings.Contains(err.Error(), canary) && !strings.Contains(key, canary) {
					t.Errorf("%s: the error is %v", name, err)
				}
				continue
			}
			if !json.Valid(d.root.text) {
				t.Errorf("%s: the document is kept as %q", name, d.root.text)
			}
			again, err := (&document{file: name, text: []byte(filled)}).value(key)
			if err != nil || !bytes.Equal(value, again) {
				t.Errorf("%s: key %q is %q, then %q, %v", name, key, value, again, err)
			}
		}
	})
}

// FuzzPolicy gives arbitrary text as an access policy: it is malformed, or each
// rule of it allows something, to some accounts of one namespace and never to
// those of another.
func FuzzPolicy(f *testing.F) {
	for _, seed := range []string{
		"", "rules:", "rules: []", rules, "rules: [{namespace: shop, serviceAccounts: [web], paths: [db.json, '*.pem', 'certs/**']}]",
		"rules: [{namespace: '*', serviceAccounts: [web], paths: ['**']}]", "rules: [{namespace: shop, serviceAccounts: [''], paths: ['[']}]",
		"rules: [{namespace: shop, serviceAccounts: ['*'], paths: ['../**']}]", "rules: [{namespace: shop, serviceAccounts: ['*'], paths: [a.age]}]", "rule: []",
	} {
		f.Add(seed, "db.json", "shop", "web")
		f.Add(seed, "certs", "other", "")
	}
	f.Fuzz(func(t *testing.T, text, path, namespace, account string) {
		parsed, err := parsePolicy([]byte(text))
		if err != nil {
			return
		}
		o := object{path: path, folder: strings.HasSuffix(path, "/")}
		for _, r := range parsed {
			pod := provider.Pod{Namespace: namespace, ServiceAccount: account}
			if r.allows(pod, o) && namespace != r.Namespace {
				t.Errorf("the rule %+v allows %q to %+v", r, path, pod)
			}
			for _, pattern := range r.Paths {
				own := provider.Pod{Namespace: r.Namespace, ServiceAccount: r.ServiceAccounts[0]}
				if !strings.ContainsAny(pattern, `*?[\`) && !r.allows(own, object{path: pattern}) {
					t.Errorf("the rule %+v does not allow %q to %+v", r, pattern, own)
				}
			}
		}
	})
}

// FuzzIdentities gives arbitrary text as a file of identities: there are some,
// or an error in words of our own.
func FuzzIdentities(f *testing.F) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{"", "# comment\n", identity.String(), identity.String() + "\n" + identity.String(), identity.String()[:30], "-----BEGIN OPENSSH PRIVATE KEY-----\n", "AGE-PLUGIN-X-1"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		some, err := parseIdentities(text)
		switch {
		case err == nil && len(some) == 0:
			t.Error("there is no identity, and no error")
		case err != nil && err.Error() != "is not an Ed25519 or RSA private key of SSH without passphrase" &&
			err.Error() != "is not a list of AGE-SECRET-KEY lines, as age-keygen writes it, nor an SSH private key":
			t.Errorf("the error is %v", err)
		}
	})
}

// FuzzSealed gives arbitrary bytes as an encrypted file: they are refused, or
// they are what was encrypted, and never a part of it.
func FuzzSealed(f *testing.F) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		f.Fatal(err)
	}
	const content = "canary-5b7e"
	sealed := seal(f, content, identity.Recipient())
	for _, seed := range []string{sealed, armored(f, sealed), sealed[:len(sealed)-1], sealed + "x", armored(f, sealed) + "x", "", "age-encryption.org/v1\n", "age-encryption.org/v1\n-> scrypt a 30\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		plain, err := decrypt(bytes.NewReader(file), func() ([]age.Identity, error) { return []age.Identity{identity}, nil })
		if err != nil {
			if provider.Reason(err) == "Internal" {
				t.Errorf("the error %v wraps no sentinel", err)
			}
			return
		}
		if text, err := io.ReadAll(plain); err == nil && string(text) != content {
			t.Errorf("it is decrypted to %q", text)
		}
	})
}
