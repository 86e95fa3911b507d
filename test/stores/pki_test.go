package stores

import (
	"crypto/tls"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/vault"
	"github.com/keymount/keymount/test/stores/openbao"
)

const certificates = `
- {objectName: one.crt, secretPath: pki/issue/web, method: PUT, secretArgs: {common_name: one.shop, ttl: 5s}, secretKey: certificate}
- {objectName: one.key, secretPath: pki/issue/web, method: PUT, secretArgs: {common_name: one.shop, ttl: 5s}, secretKey: private_key}
- {objectName: two.crt, secretPath: pki/issue/web, method: PUT, secretArgs: {common_name: two.shop, ttl: 5s}, secretKey: certificate}
- {objectName: two.key, secretPath: pki/issue/web, method: PUT, secretArgs: {common_name: two.shop, ttl: 5s}, secretKey: private_key}`

// newPKI returns a world where web may have certificates; with leases, the
// server keeps a lease for each.
func newPKI(t testing.TB, leases bool) *world {
	t.Helper()
	w := newWorld(t, nil)
	w.Mount(t, "pki", "pki")
	w.Write(t, "pki/root/generate/internal", openbao.Fields{"common_name": "root", "ttl": "24h", "key_type": "ec"})
	w.Write(t, "pki/roles/web", openbao.Fields{
		"allow_any_name": true, "enforce_hostnames": false, "key_type": "ec", "max_ttl": "1h", "generate_lease": leases,
	})
	w.Policy(t, "app", map[string]string{"pki/issue/web": "update"})
	return w
}

// pairOf returns the certificate of a volume; its key must be the right one.
func pairOf(t testing.TB, b *provider.Bundle, name string) tls.Certificate {
	t.Helper()
	key := file(t, b, name+".key")
	said.forbid(key)
	pair, err := tls.X509KeyPair([]byte(file(t, b, name+".crt")), []byte(key))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if got := pair.Leaf.Subject.CommonName; got != name+".shop" {
		t.Errorf("%s.crt is the certificate of %q", name, got)
	}
	return pair
}

func TestCertificatesStayUntilTheyNearTheirEnd(t *testing.T) {
	for name, leases := range map[string]bool{"leased": true, "without leases": false} {
		t.Run(name, func(t *testing.T) {
			w := newPKI(t, leases)
			p := w.provider(t, vault.OpenBao, nil)
			req := w.ask(t, certificates, nil)
			issued := w.During(t, func() {
				bundle := fetch(t, p, req)
				first := []tls.Certificate{pairOf(t, bundle, "one"), pairOf(t, bundle, "two")}
				for _, pair := range first {
					if bundle.Lease.Expires.IsZero() || bundle.Lease.Expires.After(pair.Leaf.NotAfter.Add(time.Second)) {
						t.Errorf("the lease ends at %v, the certificate at %v", bundle.Lease.Expires, pair.Leaf.NotAfter)
					}
				}
				for range 3 {
					if again := fetch(t, p, w.holding(t, bundle, req)); !again.Unchanged {
						t.Error("a poll issues another certificate")
					}
				}
				after(t, renewal(bundle))
				bundle = fetch(t, p, w.holding(t, bundle, req))
				for i, name := range []string{"one", "two"} {
					fresh := pairOf(t, bundle, name)
					if fresh.Leaf.SerialNumber.Cmp(first[i].Leaf.SerialNumber) == 0 {
						t.Errorf("%s.crt near its end was not issued anew", name)
					}
					if time.Now().After(first[i].Leaf.NotAfter) {
						t.Errorf("%s.crt had ended before it was issued anew", name)
					}
				}
			})
			if got := issued.At("pki/issue/", ""); len(got) != 4 {
				t.Errorf("certificates were issued %d times, want 4: %v", len(got), got)
			}
		})
	}
}
