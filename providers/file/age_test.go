package file

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

	"github.com/keymount/keymount/pkg/provider"
)

// seal encrypts content.
func seal(t testing.TB, content string, recipients ...age.Recipient) string {
	t.Helper()
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, recipients...)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.WriteString(w, content)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return sealed.String()
}

func armored(t testing.TB, sealed string) string {
	t.Helper()
	var text bytes.Buffer
	w := armor.NewWriter(&text)
	_, err := io.WriteString(w, sealed)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return text.String()
}

// keyFile writes an identity outside of any store and returns its name.
func keyFile(t testing.TB, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func x25519(t testing.TB) *age.X25519Identity {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

func hybrid(t testing.TB) *age.HybridIdentity {
	t.Helper()
	identity, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return identity
}

// sshKey returns the PEM of a private key, and the recipient of its public key.
func sshKey(t testing.TB, private any) (string, age.Recipient) {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	recipient, err := agessh.ParseRecipient(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), recipient
}

func scryptRecipient(t testing.TB, passphrase string, factor int) age.Recipient {
	t.Helper()
	recipient, err := age.NewScryptRecipient(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	recipient.SetWorkFactor(factor)
	return recipient
}

func TestEncryptedFilesAreDecryptedWithEveryKindOfIdentity(t *testing.T) {
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	native, quantum := x25519(t), hybrid(t)
	edPEM, edRecipient := sshKey(t, edKey)
	rsaPEM, rsaRecipient := sshKey(t, rsaKey)
	passphrase := rand.Text()
	all := Options{
		Identities: []string{
			keyFile(t, "# created: today\n\n"+x25519(t).String()+"\n"+native.String()+"\n"), keyFile(t, quantum.String()),
			keyFile(t, edPEM), keyFile(t, rsaPEM),
		},
		PassphraseFile: keyFile(t, passphrase+"\n"),
	}
	for name, recipient := range map[string]age.Recipient{
		"X25519": native.Recipient(), "post-quantum": quantum.Recipient(), "SSH Ed25519": edRecipient, "SSH RSA": rsaRecipient,
		"passphrase": scryptRecipient(t, passphrase, 10),
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			secret := s.canary() + "\x00\xff"
			sealed := seal(t, secret, recipient)
			s.put(t, "binary.age", sealed)
			s.put(t, "armored.age", armored(t, sealed))
			s.put(t, "db.json.age", seal(t, `{"password": "p"}`, recipient))
			s.put(t, "folder/x.age", sealed)
			bundle := fetch(t, s.provider(t, all), "[{path: binary}, {objectName: by-suffix, path: binary.age}, {path: armored}, {path: db.json, key: password}, {path: folder/}]")
			want := map[string]got{"binary": {0o640, secret}, "by-suffix": {0o640, secret}, "armored": {0o640, secret}, "password": {0o640, "p"}, "x": {0o640, secret}}
			if diff := cmp.Diff(want, files(bundle)); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			for id := range bundle.Versions {
				if strings.Contains(id, ageSuffix) {
					t.Errorf("object ID %q depends on encryption", id)
				}
			}
		})
	}
}

func TestWhatCannotBeDecrypted(t *testing.T) {
	s := newStore(t)
	identity, passphrase := x25519(t), rand.Text()
	secret := s.canary()
	sealed := seal(t, secret, identity.Recipient())
	s.put(t, "good.age", sealed)
	s.put(t, "foreign.age", seal(t, secret, x25519(t).Recipient()))
	s.put(t, "phrase.age", seal(t, secret, scryptRecipient(t, rand.Text(), 10)))
	s.put(t, "expensive.age", strings.Replace(seal(t, secret, scryptRecipient(t, passphrase, 10)), " 10\n", " 19\n", 1))
	s.put(t, "plain.age", secret)
	s.put(t, "empty.age", "")
	s.put(t, "cut.age", sealed[:len(sealed)-5])
	s.put(t, "flipped.age", sealed[:len(sealed)-1]+string(sealed[len(sealed)-1]^1))
	s.put(t, "header.age", strings.Replace(sealed, "X25519 ", "X25519 A", 1))
	s.put(t, "armor.age", armored(t, sealed)[:100])
	s.put(t, "large.age", seal(t, strings.Repeat(secret, 1000), identity.Recipient()))
	mine := Options{Identities: []string{keyFile(t, identity.String())}, PassphraseFile: keyFile(t, passphrase), MaxFileSize: 5000}
	denied, invalid, unavailable := provider.ErrDenied, provider.ErrInvalid, provider.ErrUnavailable
	for _, test := range []struct {
		name, object string
		opts         Options
		want         error
		text         string
	}{
		{"without identities", "good", Options{}, denied, "neither --file-identity nor --file-passphrase-file is set"},
		{"for another identity", "foreign", mine, denied, "none of the 2 identities that --file-identity and --file-passphrase-file name"},
		{"with another passphrase", "phrase", mine, denied, "none of the 2 identities"},
		{"too expensive", "expensive", mine, invalid, "work factor of 19, above the limit of 18"},
		{"not encrypted", "plain", mine, unavailable, "damaged"},
		{"empty", "empty", mine, unavailable, "damaged"},
		{"cut off", "cut", mine, unavailable, "damaged"},
		{"changed", "flipped", mine, unavailable, "damaged"},
		{"with a broken header", "header", mine, unavailable, "damaged"},
		{"with broken armor", "armor", mine, unavailable, "damaged"},
		{"large once it is decrypted", "large", mine, invalid, "larger than 5000 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, optional := range []string{"false", "true"} {
				_, err := s.provider(t, test.opts).Fetch(t.Context(), request("[{objectName: x, path: "+test.object+", optional: "+optional+"}]"))
				s.clean(t, err, test.want)
				if !strings.Contains(err.Error(), test.text) {
					t.Errorf("error %q does not say %q", err, test.text)
				}
			}
		})
	}
}

func TestIdentitiesAreReadAnewWhenTheyAreNeeded(t *testing.T) {
	s := newStore(t)
	first, second := x25519(t), x25519(t)
	key := keyFile(t, first.String())
	p := s.provider(t, Options{Identities: []string{key}})
	s.put(t, "a.age", seal(t, s.canary(), first.Recipient()))
	held := fetch(t, p, "[{objectName: a}]").Versions

	s.put(t, "a.age", seal(t, s.canary(), second.Recipient()))
	_, err := p.Fetch(t.Context(), request("[{objectName: a}]"))
	s.clean(t, err, provider.ErrDenied)

	if err := os.WriteFile(key, []byte(second.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if now := fetch(t, p, "[{objectName: a}]").Versions; now.Equal(held) {
		t.Error("the version did not change with the content")
	}

	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	s.put(t, "a.age", seal(t, s.canary(), second.Recipient()))
	_, err = p.Fetch(t.Context(), request("[{objectName: a}]"))
	s.clean(t, err, provider.ErrUnavailable)
}

func TestNewRefusesIdentitiesThatAreNone(t *testing.T) {
	s := newStore(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	phrase := s.canary()
	block, err := ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(phrase))
	if err != nil {
		t.Fatal(err)
	}
	for name, opts := range map[string]Options{
		"missing":            {Identities: []string{"/nonexistent/key"}},
		"a folder":           {Identities: []string{s.root}},
		"empty":              {Identities: []string{keyFile(t, "")}},
		"text":               {Identities: []string{keyFile(t, s.canary())}},
		"a malformed key":    {Identities: []string{keyFile(t, "AGE-SECRET-KEY-1"+s.canary())}},
		"a malformed PEM":    {Identities: []string{keyFile(t, "-----BEGIN OPENSSH PRIVATE KEY-----\n"+s.canary())}},
		"a locked SSH key":   {Identities: []string{keyFile(t, string(pem.EncodeToMemory(block)))}},
		"missing passphrase": {PassphraseFile: "/nonexistent/passphrase"},
		"empty passphrase":   {PassphraseFile: keyFile(t, "\n")},
	} {
		t.Run(name, func(t *testing.T) {
			opts.Root = s.root
			_, err := New(&opts)
			s.clean(t, err, provider.ErrUnavailable)
			if !strings.Contains(err.Error(), "--file-") {
				t.Errorf("error %q names no flag", err)
			}
		})
	}
}
