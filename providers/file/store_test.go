package file

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// A store is a store for tests, in which everything secret is a canary.
type store struct {
	root     string
	canaries []string
}

func newStore(t testing.TB) *store {
	t.Helper()
	s := &store{root: t.TempDir()}
	if err := errors.Join(os.Mkdir(filepath.Join(s.root, "shop"), 0o755), os.Mkdir(filepath.Join(s.root, ".new"), 0o755)); err != nil {
		t.Fatal(err)
	}
	return s
}

// canary returns a new secret.
func (s *store) canary() string {
	canary := "canary-" + strings.ToLower(rand.Text())
	s.canaries = append(s.canaries, canary)
	return canary
}

// put replaces a file of the namespace shop, as careful writers do.
func (s *store) put(t testing.TB, name, content string) {
	t.Helper()
	s.putRoot(t, "shop/"+name, content)
}

func (s *store) putRoot(t testing.TB, name, content string) {
	t.Helper()
	full := filepath.Join(s.root, name)
	temporary := filepath.Join(s.root, ".new/file") // nobody looks into this folder
	if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(temporary, []byte(content), 0o644), os.Rename(temporary, full)); err != nil {
		t.Fatal(err)
	}
}

// provider returns a provider for the store that trusts attributes at once.
func (s *store) provider(t testing.TB, opts Options) *Provider {
	t.Helper()
	opts.Root = s.root
	p, err := New(&opts)
	if err != nil {
		t.Fatal(err)
	}
	p.versions.settle = -time.Hour
	return p
}

// clean fails the test if the error is no error, is of the wrong kind or
// tells a secret.
func (s *store) clean(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) || provider.Reason(err) != provider.Reason(want) {
		t.Fatalf("error is %v, want one that wraps %q only", err, want)
	}
	for _, canary := range s.canaries {
		for _, form := range []string{canary, hex.EncodeToString([]byte(canary)), base64.StdEncoding.EncodeToString([]byte(canary))} {
			if strings.Contains(err.Error(), form) || strings.Contains(err.Error(), form[:16]) {
				t.Errorf("error tells a secret: %v", err)
			}
		}
	}
}

func request(objects string) *provider.Request {
	return &provider.Request{
		Class:      "shop/class",
		Parameters: map[string]string{"objects": objects, "csi.storage.k8s.io/pod.name": "web-0"},
		Pod:        provider.Pod{Namespace: "shop", Name: "web-0", UID: "1", ServiceAccount: "web"},
		Mode:       0o640,
	}
}

// A file of a volume, printable.
type got struct {
	Mode fs.FileMode
	Data string
}

func files(bundle *provider.Bundle) map[string]got {
	all := make(map[string]got)
	for _, file := range bundle.Files {
		all[file.Path] = got{file.Mode, string(file.Data.Reveal())}
	}
	return all
}

func fetch(t testing.TB, p provider.Provider, objects string) *provider.Bundle {
	t.Helper()
	bundle, err := p.Fetch(t.Context(), request(objects))
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}
