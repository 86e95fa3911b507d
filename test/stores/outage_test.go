package stores

import (
	"fmt"
	"testing"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/vault"
	"github.com/keymount/keymount/test/stores/openbao"
)

func TestLeasesGoOnWhenTheServerIsSealedAndRestarted(t *testing.T) {
	w := newDatabase(t, "20s", "1h")
	p := w.provider(t, vault.OpenBao, nil)
	req := w.ask(t, databaseObjects, nil)
	bundle := fetch(t, p, req)
	a := accountOf(t, bundle)
	for _, c := range []struct {
		name      string
		harm, fix func()
		said      string
	}{
		{"sealed", func() { w.Seal(t) }, func() { w.Unseal(t) }, "sealed"},
		{"killed", func() { w.Kill(t) }, func() { w.Start(t) }, "connection refused"},
	} {
		c.harm()
		fails(t, p, w.ask(t, databaseObjects, nil), provider.ErrUnavailable, c.said)
		w.mustLogIn(t, a, "while the server is "+c.name)
		c.fix()
		next := fetch(t, p, w.holding(t, bundle, req))
		if !next.Unchanged || next.Lease.ID != bundle.Lease.ID {
			t.Errorf("after the server was %s the credentials are others", c.name)
		}
		bundle = next
		w.mustLogIn(t, a, "after the server was "+c.name)
		fetch(t, p, w.ask(t, databaseObjects, nil)) // others get theirs again
	}
	if err := p.Release(t.Context(), bundle.Lease); err != nil {
		t.Errorf("Release: %v", err)
	}
	w.endsSoon(t, a)
}

// Whoever revokes a token costs the next fetch one login.
func TestATokenThatWasRevokedIsReplacedOnce(t *testing.T) {
	w, password := newKV(t, nil)
	p := w.provider(t, vault.OpenBao, nil)
	req := w.ask(t, passwordObject, nil)
	bundle := mustHave(t, p, req, password)
	used := w.Requests(t).At("kv/data/db", "")[0].Accessor
	w.Write(t, "auth/token/revoke-accessor", openbao.Fields{"accessor": used})
	requests := w.During(t, func() {
		for range 3 {
			if again := fetch(t, p, w.holding(t, bundle, req)); !again.Unchanged {
				t.Error("a poll says that something has changed")
			}
		}
	})
	if got := len(requests.Logins()); got != 1 {
		t.Errorf("three polls after the token was revoked made %d logins, want 1: %v", got, requests)
	}
}

// So does a lease that somebody revokes: the volume gets other credentials.
func TestALeaseThatWasRevokedIsReplaced(t *testing.T) {
	w := newDatabase(t, "3s", "1h")
	p := w.provider(t, vault.OpenBao, nil)
	req := w.ask(t, databaseObjects, nil)
	bundle := fetch(t, p, req)
	old := accountOf(t, bundle)
	w.Write(t, "sys/leases/revoke", openbao.Fields{"lease_id": w.Leases(t, "db/creds/app")[0], "sync": true})
	w.endsSoon(t, old)
	after(t, renewal(bundle))
	next := fetch(t, p, w.holding(t, bundle, req))
	if next.Unchanged {
		t.Fatal("credentials that were revoked are said to be unchanged")
	}
	w.mustLogIn(t, accountOf(t, next), "with credentials instead of the revoked ones")
}

func TestDeniedPollsAreNoLogins(t *testing.T) {
	w, password := newKV(t, nil)
	p := w.provider(t, vault.OpenBao, nil)
	req := w.ask(t, passwordObject, nil)
	bundle := mustHave(t, p, req, password)
	w.Policy(t, "app", map[string]string{"kv/data/other": "read"})
	requests := w.During(t, func() {
		for range 20 {
			fails(t, p, w.holding(t, bundle, req), provider.ErrDenied, "permission denied")
		}
		for range 5 {
			fails(t, p, w.ask(t, passwordObject, nil), provider.ErrDenied, "GET kv/data/db at "+w.Address()+": 403: permission denied")
		}
	})
	if got := len(requests.Logins()); got > 1 {
		t.Errorf("25 denied polls made %d logins, want at most 1", got)
	}
	measure(t, "denied-polls", 25, "fetches")
	measure(t, "denied-polls-logins", len(requests.Logins()), "logins")
	measure(t, "denied-polls-requests", len(requests), "requests")
	w.Policy(t, "app", map[string]string{"kv/data/db": "read"})
	mustHave(t, p, w.ask(t, passwordObject, nil), password)
}

// Who may not see metadata is told that nothing has changed all the same.
func TestPollsWithoutTheMetadataPolicy(t *testing.T) {
	w, password := newKV(t, nil)
	w.Policy(t, "app", map[string]string{"kv/data/db": "read"})
	p := w.provider(t, vault.OpenBao, nil)
	req := w.ask(t, passwordObject, nil)
	bundle := mustHave(t, p, req, password)
	requests := w.During(t, func() {
		for range 5 {
			if again := fetch(t, p, w.holding(t, bundle, req)); !again.Unchanged {
				t.Error("a poll says that something has changed")
			}
		}
	})
	if got := len(requests.At("kv/metadata/", "")); got > 1 {
		t.Errorf("5 polls asked for metadata %d times, though the first was refused: %v", got, requests)
	}
	mustHave(t, p, w.holding(t, bundle, req), w.put(t, w.Client))
}

func TestASoftDeletedVersionIsNotFound(t *testing.T) {
	w, password := newKV(t, nil)
	p := w.provider(t, vault.OpenBao, nil)
	req := w.ask(t, passwordObject, nil)
	bundle := mustHave(t, p, req, password)
	w.Delete(t, "kv/data/db")
	fails(t, p, w.holding(t, bundle, req), provider.ErrNotFound, "kv/data/db")
	fails(t, p, req, provider.ErrNotFound, "kv/data/db")
	w.Write(t, "kv/undelete/db", openbao.Fields{"versions": []int{1}})
	mustHave(t, p, req, password)
	second := w.put(t, w.Client)
	mustHave(t, p, w.holding(t, bundle, req), second)
	mustHave(t, p, w.ask(t, fmt.Sprintf(`[{objectName: password, secretPath: %q, secretKey: password}]`, "kv/data/db?version=1"), nil), password)
	fails(t, p, w.ask(t, `[{objectName: password, secretPath: kv/data/db, secretKey: nothing}]`, nil), provider.ErrNotFound, `key "nothing" does not exist`)
	w.Policy(t, "app", map[string]string{"kv/*": "read"})
	fails(t, p, w.ask(t, `[{objectName: password, secretPath: kv/db, secretKey: password}]`, nil), provider.ErrNotFound, "kv/data/db")
}

// A provider that stops gives back what it has no more use for, and nothing
// that pods use.
func TestCloseRevokesTokensWithoutLeases(t *testing.T) {
	w := newDatabase(t, "1h", "24h")
	w.MountKV(t, "kv", 2)
	w.Policy(t, "app", map[string]string{"kv/data/db": "read", "kv/metadata/db": "read", "db/creds/app": "read"})
	password := w.put(t, w.Client)
	p, err := vault.New(vault.OpenBao, &vault.Options{Address: w.Address(), CACert: w.CAFile()})
	if err != nil {
		t.Fatal(err)
	}
	before := len(w.List(t, "auth/token/accessors"))
	mustHave(t, p, w.ask(t, passwordObject, nil), password)
	a := accountOf(t, fetch(t, p, w.ask(t, databaseObjects, nil)))
	if err := p.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	eventually(t, "the token of the lease is the only one left", func() error {
		if now := len(w.List(t, "auth/token/accessors")); now != before+1 {
			return fmt.Errorf("%d tokens, %d before the provider came", now, before)
		}
		return nil
	})
	w.mustLogIn(t, a, "after the provider has stopped")
}
