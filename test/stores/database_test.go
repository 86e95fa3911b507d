package stores

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/vault"
	"github.com/keymount/keymount/test/stores/postgres"
)

const databaseObjects = `
- {objectName: username, secretPath: db/creds/app, secretKey: username}
- {objectName: password, secretPath: db/creds/app, secretKey: password}`

// newDatabase returns a world where web may have credentials of the database.
func newDatabase(t testing.TB, ttl, maxTTL string) *world {
	t.Helper()
	w := newWorld(t, nil).withDatabase(t)
	w.DatabaseRole(t, "db", "app", ttl, maxTTL)
	w.Policy(t, "app", map[string]string{"db/creds/app": "read"})
	return w
}

// An account is what a volume shows of the database.
type account struct{ user, password string }

func accountOf(t testing.TB, b *provider.Bundle) account {
	t.Helper()
	a := account{file(t, b, "username"), file(t, b, "password")}
	said.forbid(a.password)
	return a
}

// mustLogIn logs in with the account.
func (w *world) mustLogIn(t testing.TB, a account, when string) {
	t.Helper()
	if err := w.database.Login(t.Context(), a.user, a.password); err != nil {
		t.Errorf("login %s: %v", when, err)
	}
}

// endsSoon waits until the database refuses the account.
func (w *world) endsSoon(t testing.TB, a account) {
	t.Helper()
	eventually(t, "the credentials are refused", func() error {
		if err := w.database.Login(t.Context(), a.user, a.password); !postgres.Refused(err) {
			return fmt.Errorf("the login is not refused: %w", err)
		}
		return nil
	})
}

// noLeaseIsLeftSoon waits until the server has ended all leases.
func (w *world) noLeaseIsLeftSoon(t testing.TB) {
	t.Helper()
	eventually(t, "no lease is left", func() error {
		if left := w.Leases(t, "db/creds/app"); len(left) != 0 {
			return fmt.Errorf("leases: %q", left)
		}
		return nil
	})
}

// renewal returns when a driver asks again for what is leased.
func renewal(b *provider.Bundle) time.Time {
	return time.Now().Add(time.Until(b.Lease.Expires) * 2 / 3)
}

func TestCredentialsLogInWhileTheyAreRenewedAndUntilTheyAreReleased(t *testing.T) {
	w := newDatabase(t, "3s", "1h")
	p := w.provider(t, vault.OpenBao, nil)
	req := w.ask(t, databaseObjects, nil)
	bundle := fetch(t, p, req)
	a := accountOf(t, bundle)
	w.mustLogIn(t, a, "with new credentials")
	for end := time.Now().Add(7 * time.Second); time.Now().Before(end); {
		after(t, renewal(bundle))
		again := fetch(t, p, w.holding(t, bundle, req))
		if !again.Unchanged || !again.Lease.Expires.After(bundle.Lease.Expires) {
			t.Fatalf("the renewal says unchanged: %v, lease until %v after %v", again.Unchanged, again.Lease.Expires, bundle.Lease.Expires)
		}
		bundle = again
		w.mustLogIn(t, a, "after a renewal")
	}
	for range 2 {
		if err := p.Release(t.Context(), bundle.Lease); err != nil {
			t.Fatalf("Release: %v", err)
		}
	}
	w.endsSoon(t, a)
	if left := w.Leases(t, "db/creds/app"); len(left) != 0 {
		t.Errorf("leases are left: %q", left)
	}
}

func TestCredentialsAtTheEndOfTheirLifeAreReplacedInTime(t *testing.T) {
	w := newDatabase(t, "3s", "6s")
	p := w.provider(t, vault.OpenBao, nil)
	req := w.ask(t, databaseObjects, nil)
	bundle := fetch(t, p, req)
	old := accountOf(t, bundle)
	for range 3 {
		for {
			after(t, renewal(bundle))
			bundle = fetch(t, p, w.holding(t, bundle, req))
			if !bundle.Unchanged {
				break
			}
			w.mustLogIn(t, old, "after a renewal")
		}
		fresh := accountOf(t, bundle)
		if fresh == old {
			t.Fatal("the credentials are not new")
		}
		w.mustLogIn(t, old, "with the old credentials, which the pod still uses")
		w.mustLogIn(t, fresh, "with the new credentials")
		old = fresh
	}
	if err := p.Release(t.Context(), bundle.Lease); err != nil {
		t.Errorf("Release: %v", err)
	}
	w.endsSoon(t, old)
	w.noLeaseIsLeftSoon(t)
}

// A provider that was killed forgets its tokens. The next one knows the lease
// by what the volume's record has.
func TestAnotherProcessGoesOnWithTheLease(t *testing.T) {
	w := newDatabase(t, "4s", "1h")
	req := w.ask(t, databaseObjects, nil)
	first, err := vault.New(vault.OpenBao, &vault.Options{Address: w.Address(), CACert: w.CAFile()})
	if err != nil {
		t.Fatal(err)
	}
	bundle := fetch(t, first, req) // and is never heard of again
	a := accountOf(t, bundle)
	second := w.provider(t, vault.OpenBao, nil)
	next := fetch(t, second, w.holding(t, bundle, req))
	if !next.Unchanged {
		w.mustLogIn(t, accountOf(t, next), "with credentials of the other process")
	}
	w.mustLogIn(t, a, "with credentials of the process that was killed")
	// Nobody has logged in yet, so perhaps nobody can revoke: then the lease ends by itself.
	if err := second.Release(t.Context(), next.Lease); err != nil && !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("Release: %v", err)
	}
	w.noLeaseIsLeftSoon(t)
	w.endsSoon(t, a)
}
