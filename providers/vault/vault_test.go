package vault

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/vault/vaulttest"
)

// A backend is a server in memory, with a mount of each kind and a role for
// the service account shop/web.
type backend struct {
	*vaulttest.Server
	product  Product
	pipe     bool
	provider *Provider
}

// options change what newBackend makes.
type backendOptions struct {
	product Product
	grant   vaulttest.Grant // of the role shop
	pipe    bool            // for synctest
}

func newBackend(t testing.TB, opts backendOptions) *backend {
	t.Helper()
	if opts.product == "" {
		opts.product = Vault
	}
	s := vaulttest.New(t, &vaulttest.Options{Pipe: opts.pipe})
	b := &backend{Server: s, product: opts.product, pipe: opts.pipe}
	s.Kubernetes("kubernetes").Role("shop", vaulttest.Role{Namespace: "shop", ServiceAccount: "web", Audience: string(opts.product), Grant: opts.grant})
	s.KV2("secret")
	s.Database("database").Role("app", vaulttest.Lifetime{TTL: time.Hour, MaxTTL: 24 * time.Hour})
	b.provider = b.start(t)
	return b
}

// restart ends the provider, and starts another one for the same server.
func (b *backend) restart(t testing.TB) {
	t.Helper()
	if err := b.provider.Close(); err != nil {
		t.Fatal(err)
	}
	b.provider = b.start(t)
}

func (b *backend) start(t testing.TB) *Provider {
	t.Helper()
	p := newProvider(t, b.product, &Options{Address: b.URL, CACert: b.CAFile})
	p.connections.settings.pause = 10 * time.Millisecond
	if b.pipe {
		p.connections.settings.dial = b.Dial
	}
	return p
}

// ask returns a request of a pod of shop/web for objects.
func (b *backend) ask(objects string) *provider.Request {
	req := ask(b.product, map[string]string{"objects": objects})
	token := b.ServiceAccountToken("shop", "web", string(b.product), 24*time.Hour)
	req.Tokens = provider.Tokens{string(b.product): {Value: secret.New([]byte(token))}}
	return req
}

func (b *backend) Provider() provider.Provider { return b.provider }

func (b *backend) Put(_ testing.TB, name string, value []byte) {
	b.KV2("secret").Put(name, map[string]any{"value": hex.EncodeToString(value)})
}

func (b *backend) Delete(_ testing.TB, name string) { b.KV2("secret").Delete(name) }

func (b *backend) Request(_ testing.TB, objects ...providertest.Object) *provider.Request {
	var list strings.Builder
	for _, o := range objects {
		name := o.File
		if name == "" {
			name = o.Name
		}
		fmt.Fprintf(&list, "- {secretPath: %q, secretKey: value, encoding: hex, objectName: %q, optional: %v", "secret/data/"+o.Name, name, o.Optional)
		if o.Mode != 0 {
			fmt.Fprintf(&list, ", filePermission: %#o", o.Mode)
		}
		list.WriteString("}\n")
	}
	req := b.ask(list.String())
	req.Mode = 0
	return req
}

func (b *backend) Deny(_ testing.TB, name string) {
	b.Server.Deny("secret/data/" + name)
	b.Server.Deny("secret/metadata/" + name)
}

func (b *backend) Break(testing.TB)  { b.Server.Break() }
func (b *backend) Repair(testing.TB) { b.Server.Repair() }

func (b *backend) Hang(testing.TB) <-chan struct{} { return b.Server.Hang() }

const credentials = `
- {objectName: username, secretPath: database/creds/app, secretKey: username}
- {objectName: password, secretPath: database/creds/app, secretKey: password}
`

func (b *backend) LeaseRequest(testing.TB) *provider.Request { return b.ask(credentials) }

func (b *backend) Leases(testing.TB) int { return len(b.Server.Leases("")) }

func TestVaultConforms(t *testing.T) {
	providertest.Run(t, func(t testing.TB) providertest.Backend { return newBackend(t, backendOptions{}) })
}

func TestOpenBaoConforms(t *testing.T) {
	providertest.Run(t, func(t testing.TB) providertest.Backend { return newBackend(t, backendOptions{product: OpenBao}) })
}

// Without the right to see metadata, a volume is as right and costs more.
func TestIdentitiesWithoutMetadataConform(t *testing.T) {
	providertest.Run(t, func(t testing.TB) providertest.Backend {
		return newBackend(t, backendOptions{grant: vaulttest.Grant{Deny: []string{"secret/metadata/"}}})
	})
}
