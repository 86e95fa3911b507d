package file

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/providertest"
)

func TestPlainStoreConforms(t *testing.T) {
	providertest.Run(t, func(t testing.TB) providertest.Backend {
		return newBackend(t, Options{}, func(name, value string) (string, string) { return name, value })
	})
}

func TestEncryptedStoreConforms(t *testing.T) {
	identity := x25519(t)
	opts := Options{Identities: []string{keyFile(t, identity.String())}}
	providertest.Run(t, func(t testing.TB) providertest.Backend {
		return newBackend(t, opts, func(name, value string) (string, string) {
			return name + ageSuffix, seal(t, value, identity.Recipient())
		})
	})
}

// A backend is a store for the conformance suite.
type backend struct {
	*store
	provider *Provider
	form     func(name, value string) (file, content string) // in which values are stored
	denied   map[string]bool
	names    map[string]bool
}

func newBackend(t testing.TB, opts Options, form func(name, value string) (string, string)) *backend {
	s := newStore(t)
	return &backend{store: s, provider: s.provider(t, opts), form: form, denied: make(map[string]bool), names: make(map[string]bool)}
}

func (b *backend) Provider() provider.Provider { return b.provider }

func (b *backend) Put(t testing.TB, name string, value []byte) {
	t.Helper()
	file, content := b.form(name, string(value))
	b.put(t, file, content)
	b.names[name] = true
}

func (b *backend) Delete(t testing.TB, name string) {
	t.Helper()
	file, _ := b.form(name, "")
	if err := os.Remove(filepath.Join(b.root, "shop", file)); err != nil {
		t.Fatal(err)
	}
}

func (b *backend) Request(_ testing.TB, objects ...providertest.Object) *provider.Request {
	var list strings.Builder
	for _, o := range objects {
		fmt.Fprintf(&list, "- {path: %q, objectName: %q, optional: %v", o.Name, o.File, o.Optional)
		if o.Mode != 0 {
			fmt.Fprintf(&list, ", filePermission: %#o", o.Mode)
		}
		list.WriteString("}\n")
	}
	req := request(list.String())
	req.Mode = 0
	return req
}

// Deny leaves the object out of the policy.
func (b *backend) Deny(t testing.TB, name string) {
	t.Helper()
	b.denied[name] = true
	var list strings.Builder
	for name := range b.names {
		if !b.denied[name] {
			fmt.Fprintf(&list, "- {namespace: shop, serviceAccounts: [web], paths: [%q]}\n", name)
		}
	}
	b.putRoot(t, policyName, "rules:\n"+list.String())
}

// Break takes the store away, as when its disk is not mounted.
func (b *backend) Break(t testing.TB) {
	t.Helper()
	if err := os.Rename(b.root, b.root+".away"); err != nil {
		t.Fatal(err)
	}
}

func (b *backend) Repair(t testing.TB) {
	t.Helper()
	if err := os.Rename(b.root+".away", b.root); err != nil {
		t.Fatal(err)
	}
}
