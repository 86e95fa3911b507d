package file

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"

	"filippo.io/age"
	"filippo.io/age/agessh"
	"filippo.io/age/armor"

	"github.com/keymount/keymount/pkg/provider"
)

const (
	// maxWorkFactor bounds what one passphrase-encrypted file can cost to
	// 256 MiB and about a second. It is what age itself encrypts with.
	maxWorkFactor = 18
	// maxIdentityFile bounds an identity or passphrase file.
	maxIdentityFile = 1 << 20
)

var errDamaged = fmt.Errorf("is encrypted and damaged, or only half written: %w", provider.ErrUnavailable)

// identities returns the identities to decrypt with.
type identities func() ([]age.Identity, error)

// A keyring knows where the identities are. It reads them whenever something
// is to be decrypted and keeps none, so that a key that is replaced or
// withdrawn is so at once.
type keyring struct {
	files      []string
	passphrase string     // file; "" for none
	scrypt     sync.Mutex // one derivation at a time, for its memory
}

func (k *keyring) add(files []string, passphrase string) {
	k.files = append(k.files, files...)
	k.passphrase = passphrase
}

// lazily returns the identities at the first call, and the same at the next.
func (k *keyring) lazily() identities { return sync.OnceValues(k.identities) }

func (k *keyring) identities() ([]age.Identity, error) {
	var all []age.Identity
	for _, file := range k.files {
		text, err := readIdentityFile(file)
		if err != nil {
			return nil, fmt.Errorf("--file-identity %q: %w", file, err)
		}
		some, err := parseIdentities(text)
		if err != nil {
			return nil, fmt.Errorf("--file-identity %q: %w: %w", file, err, provider.ErrUnavailable)
		}
		all = append(all, some...)
	}
	if k.passphrase == "" {
		return all, nil
	}
	text, err := readIdentityFile(k.passphrase)
	if err != nil {
		return nil, fmt.Errorf("--file-passphrase-file %q: %w", k.passphrase, err)
	}
	passphrase, err := age.NewScryptIdentity(string(bytes.TrimRight(text, "\r\n")))
	if err != nil {
		return nil, fmt.Errorf("--file-passphrase-file %q is empty: %w", k.passphrase, provider.ErrUnavailable)
	}
	return append(all, &bounded{turn: &k.scrypt, next: passphrase}), nil
}

func readIdentityFile(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("cannot be opened: %w", provider.ErrUnavailable)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxIdentityFile))
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", provider.ErrUnavailable)
	}
	return text, nil
}

// parseIdentities reads age's identity files and SSH private keys. It drops
// the parsers' errors, which quote keys.
func parseIdentities(text []byte) ([]age.Identity, error) {
	if bytes.HasPrefix(bytes.TrimSpace(text), []byte("-----BEGIN")) {
		identity, err := agessh.ParseIdentity(text)
		if err != nil {
			return nil, errors.New("is not an Ed25519 or RSA private key of SSH without passphrase")
		}
		return []age.Identity{identity}, nil
	}
	some, err := age.ParseIdentities(bytes.NewReader(text))
	if err != nil {
		return nil, errors.New("is not a list of AGE-SECRET-KEY lines, as age-keygen writes it, nor an SSH private key")
	}
	return some, nil
}

// A bounded identity is a passphrase that refuses expensive files.
type bounded struct {
	turn *sync.Mutex
	next *age.ScryptIdentity
}

// Unwrap implements age.Identity.
func (b *bounded) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, stanza := range stanzas {
		if stanza.Type != "scrypt" || len(stanza.Args) != 2 {
			continue
		}
		if factor, err := strconv.Atoi(stanza.Args[1]); err == nil && factor > maxWorkFactor {
			return nil, fmt.Errorf("is encrypted with a scrypt work factor of %d, above the limit of %d: %w", factor, maxWorkFactor, provider.ErrInvalid)
		}
	}
	b.turn.Lock()
	defer b.turn.Unlock()
	return b.next.Unwrap(stanzas)
}

// decrypt returns the plaintext of an age file, binary or armored. Errors of
// the reader mean that the file is damaged.
func decrypt(file io.Reader, identities identities) (io.Reader, error) {
	some, err := identities()
	switch {
	case err != nil:
		return nil, err
	case len(some) == 0:
		return nil, fmt.Errorf("is encrypted, and neither --file-identity nor --file-passphrase-file is set: %w", provider.ErrDenied)
	}
	buffered := bufio.NewReader(file)
	var source io.Reader = buffered
	if start, _ := buffered.Peek(len(armor.Header)); string(start) == armor.Header {
		source = armor.NewReader(buffered)
	}
	plain, err := age.Decrypt(source, some...)
	var noMatch *age.NoIdentityMatchError
	switch {
	case err == nil:
		return plain, nil
	case errors.As(err, &noMatch):
		return nil, fmt.Errorf("is encrypted for none of the %d identities that --file-identity and --file-passphrase-file name: %w", len(some), provider.ErrDenied)
	case errors.Is(err, provider.ErrInvalid): // of bounded
		return nil, err
	default:
		return nil, errDamaged
	}
}
