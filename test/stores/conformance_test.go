package stores

import (
	"encoding/base64"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/providers/vault"
	"github.com/keymount/keymount/test/stores/openbao"
)

func TestOpenBaoConforms(t *testing.T) { conform(t, vault.OpenBao, 2) }

func TestVaultConforms(t *testing.T) { conform(t, vault.Vault, 2) }

func TestVersionOneOfTheKeyValueEngineConforms(t *testing.T) { conform(t, vault.OpenBao, 1) }

// conform runs the suite against one server. Each backend has mounts, a role
// and a policy of its own there.
func conform(t *testing.T, product vault.Product, version int) {
	w := newWorld(t, nil).withDatabase(t)
	var backends atomic.Int32
	providertest.Run(t, func(t testing.TB) providertest.Backend {
		return newBackend(t, w, product, version, fmt.Sprintf("b%d", backends.Add(1)))
	})
}

// A backend is a part of a server for one case.
type backend struct {
	*world
	name     string // of the mount, the role and the policy
	product  vault.Product
	version  int // of the key-value engine
	gate     *openbao.Gate
	provider *vault.Provider
	broken   bool
	denied   []string
}

func newBackend(t testing.TB, w *world, product vault.Product, version int, name string) *backend {
	t.Helper()
	b := &backend{world: w, name: name, product: product, version: version, gate: w.Gate(t)}
	w.MountKV(t, name, version)
	w.role(t, name, openbao.Fields{"audience": string(product)})
	w.DatabaseRole(t, "db", name, "1h", "24h")
	b.permit(t)
	b.provider = w.provider(t, product, func(o *vault.Options) { o.Address = b.gate.Address() })
	t.Cleanup(func() { b.Repair(t) })
	return b
}

// path returns the path of an object.
func (b *backend) path(name string) string {
	if b.version == 2 {
		return b.name + "/data/" + name
	}
	return b.name + "/" + name
}

// permit writes the policy: all but what is denied.
func (b *backend) permit(t testing.TB) {
	t.Helper()
	rules := map[string]string{b.name + "/*": "read", "db/creds/" + b.name: "read"}
	for _, name := range b.denied {
		rules[b.path(name)] = "deny"
		rules[b.name+"/metadata/"+name] = "deny"
	}
	b.Policy(t, b.name, rules)
}

func (b *backend) Provider() provider.Provider { return b.provider }

// encode returns how a value is stored: version 2 of the engine is tested with
// the encoding that can hold any bytes.
func (b *backend) encode(value []byte) string {
	if b.version == 2 {
		return base64.StdEncoding.EncodeToString(value)
	}
	return string(value)
}

func (b *backend) Limits() providertest.Limits {
	if b.version == 2 {
		return providertest.Limits{}
	}
	return providertest.Limits{Value: func(value []byte) string {
		if !utf8.Valid(value) {
			return "JSON has no text that is not UTF-8"
		}
		return ""
	}}
}

func (b *backend) Put(t testing.TB, name string, value []byte) {
	t.Helper()
	fields := openbao.Fields{"value": b.encode(value)}
	if b.version == 2 {
		fields = openbao.Fields{"data": fields}
	}
	b.Write(t, b.path(name), fields)
}

func (b *backend) Delete(t testing.TB, name string) {
	t.Helper()
	b.world.Delete(t, b.path(name))
}

func (b *backend) Request(t testing.TB, objects ...providertest.Object) *provider.Request {
	t.Helper()
	encoding := map[int]string{1: "utf-8", 2: "base64"}[b.version]
	var list strings.Builder
	for _, o := range objects {
		file := o.File
		if file == "" {
			file = o.Name
		}
		fmt.Fprintf(&list, "- {objectName: %q, secretPath: %q, secretKey: value, encoding: %s, optional: %v", file, b.path(o.Name), encoding, o.Optional)
		if o.Mode != 0 {
			fmt.Fprintf(&list, ", filePermission: %#o", o.Mode)
		}
		list.WriteString("}\n")
	}
	return b.request(t, list.String())
}

// request spells the parameters as the product's own classes do.
func (b *backend) request(t testing.TB, objects string) *provider.Request {
	t.Helper()
	audience, role := string(b.product), map[vault.Product]string{vault.OpenBao: "openbaoRoleName", vault.Vault: "roleName"}[b.product]
	return &provider.Request{
		Class: "shop/" + b.name, Pod: web,
		Parameters: map[string]string{role: b.name, "objects": objects},
		Tokens:     provider.Tokens{audience: b.issuer.Token(t, web, audience, time.Hour)},
	}
}

func (b *backend) Deny(t testing.TB, name string) {
	t.Helper()
	b.denied = append(b.denied, name)
	b.permit(t)
}

func (b *backend) Break(t testing.TB) {
	t.Helper()
	b.Seal(t)
	b.broken = true
}

func (b *backend) Repair(t testing.TB) {
	t.Helper()
	if b.broken {
		b.Unseal(t)
		b.broken = false
	}
}

func (b *backend) Hang(t testing.TB) <-chan struct{} {
	t.Helper()
	t.Cleanup(b.gate.Open)
	return b.gate.Close()
}

func (b *backend) LeaseRequest(t testing.TB) *provider.Request {
	t.Helper()
	return b.request(t, fmt.Sprintf(`
- {objectName: username, secretPath: db/creds/%[1]s, secretKey: username}
- {objectName: password, secretPath: db/creds/%[1]s, secretKey: password}`, b.name))
}

func (b *backend) Leases(t testing.TB) int {
	t.Helper()
	return len(b.world.Leases(t, "db/creds/"+b.name))
}
