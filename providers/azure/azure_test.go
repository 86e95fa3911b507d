package azure

import (
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/azure/azuretest"
)

const (
	testVault  = "kv1"
	testClient = "11111111-2222-4333-8444-555555555555"
)

// A backend is Azure in memory, with an application for the service account
// shop/web.
type backend struct {
	*azuretest.Server
	vault    *azuretest.Vault
	provider *Provider

	mu     sync.Mutex
	values map[string]string // of secrets, by name
}

func newBackend(t testing.TB) *backend {
	t.Helper()
	return newBackendOf(t, nil, nil)
}

func newBackendOf(t testing.TB, server *azuretest.Options, opts *Options) *backend {
	t.Helper()
	s := azuretest.New(t, server)
	s.App(testClient, azuretest.App{Subjects: []string{"system:serviceaccount:shop:web"}})
	b := &backend{Server: s, vault: s.Vault(testVault), values: map[string]string{}}
	b.provider = b.start(t, opts)
	return b
}

// start returns a provider whose network is the backend.
func (b *backend) start(t testing.TB, opts *Options) *Provider {
	t.Helper()
	if opts == nil {
		opts = &Options{}
	}
	if opts.dial == nil {
		opts.dial = b.Dial
	}
	opts.roots = b.CAs()
	p, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	p.pause = 10 * time.Millisecond
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// ask returns a request of a pod of shop/web for objects; a parameter that is
// empty is left out.
func (b *backend) ask(objects string, parameters ...map[string]string) *provider.Request {
	all := map[string]string{"keyvaultName": testVault, "tenantID": b.Tenant, "clientID": testClient, "objects": objects}
	for _, more := range parameters {
		maps.Copy(all, more)
	}
	maps.DeleteFunc(all, func(_, value string) bool { return value == "" })
	return &provider.Request{
		Class: "shop/web", Parameters: all, Mode: 0o644,
		Pod:    provider.Pod{Namespace: "shop", Name: "web-0", UID: "u", ServiceAccount: "web"},
		Tokens: b.tokens("shop", "web"),
	}
}

func (b *backend) tokens(namespace, account string) provider.Tokens {
	tokens := make(provider.Tokens)
	for _, k := range []kind{workloadIdentity, identityBinding} {
		token := b.ServiceAccountToken(namespace, account, k.audience(), time.Hour)
		tokens[k.audience()] = provider.Token{Value: secret.New([]byte(token)), Expires: time.Now().Add(time.Hour)}
	}
	return tokens
}

// list is the YAML of objects of one type.
func list(objectType string, names ...string) string {
	var text strings.Builder
	for _, name := range names {
		fmt.Fprintf(&text, "- {objectName: %s, objectType: %s}\n", name, objectType)
	}
	return text.String()
}

// fetch expects a request to be answered.
func (b *backend) fetch(t *testing.T, req *provider.Request) *provider.Bundle {
	t.Helper()
	bundle, err := b.provider.Fetch(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if err := bundle.Validate(); err != nil {
		t.Fatal(err)
	}
	return bundle
}

// poll expects nothing new since an earlier fetch.
func (b *backend) poll(t *testing.T, req *provider.Request, held *provider.Bundle) *provider.Bundle {
	t.Helper()
	req.Held.Versions = held.Versions
	bundle := b.fetch(t, req)
	if !bundle.Unchanged || !bundle.Versions.Equal(held.Versions) {
		t.Errorf("Unchanged = %v with versions %v, want those that are held: %v", bundle.Unchanged, bundle.Versions, held.Versions)
	}
	return bundle
}

// counts returns how many calls of each operation there were, and forgets them.
func (b *backend) counts() map[string]int {
	counts := make(map[string]int)
	for _, call := range b.Calls() {
		counts[call.Operation]++
	}
	b.Forget()
	return counts
}

func contents(bundle *provider.Bundle) map[string]string {
	files := make(map[string]string)
	for _, f := range bundle.Files {
		files[f.Path] = string(f.Data.Reveal())
	}
	return files
}

func expect[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func (b *backend) Provider() provider.Provider { return b.provider }

func (b *backend) Put(_ testing.TB, name string, value []byte) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.values[name] = hex.EncodeToString(value)
	b.vault.PutSecret(name, b.values[name])
}

func (b *backend) Expire(_ testing.TB, name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.vault.PutSecretWith(name, azuretest.Secret{Value: b.values[name], Expires: time.Now().Add(-time.Hour)})
}

func (b *backend) Delete(_ testing.TB, name string) { b.vault.Delete(name) }

func (b *backend) Request(_ testing.TB, objects ...providertest.Object) *provider.Request {
	var text strings.Builder
	text.WriteString("array:\n")
	for _, o := range objects {
		fmt.Fprintf(&text, "- |\n  objectName: %s\n  objectType: secret\n  objectAlias: %q\n  objectEncoding: hex\n  optional: %v\n", o.Name, o.File, o.Optional)
		if o.Mode != 0 {
			fmt.Fprintf(&text, "  filePermission: %#o\n", o.Mode)
		}
	}
	req := b.ask(text.String())
	req.Mode = 0
	return req
}

func (b *backend) Deny(_ testing.TB, name string) { b.vault.Deny(testClient, "secrets/get", name) }

func (b *backend) Break(testing.TB)  { b.vault.Break() }
func (b *backend) Repair(testing.TB) { b.vault.Repair() }

func (b *backend) Hang(testing.TB) <-chan struct{} { return b.vault.Hang() }

func (b *backend) Limits() providertest.Limits {
	return providertest.Limits{Value: func(value []byte) string {
		if 2*len(value) > 25<<10 {
			return "larger than Key Vault stores"
		}
		return ""
	}}
}

func TestConformance(t *testing.T) {
	providertest.Run(t, func(t testing.TB) providertest.Backend { return newBackend(t) })
}
