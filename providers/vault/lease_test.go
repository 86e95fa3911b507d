package vault

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/vault/vaulttest"
)

// A volume is what the driver keeps of one: what it holds and what is in it.
type volume struct {
	t     *testing.T
	b     *backend
	req   *provider.Request
	held  *provider.Bundle
	files map[string]string
}

func (b *backend) volume(t *testing.T, objects string) *volume {
	t.Helper()
	v := &volume{t: t, b: b, req: b.ask(objects)}
	v.held = b.fetch(t, v.req)
	v.files = text(v.held)
	return v
}

// refresh fetches as the driver does, and reports whether files changed.
func (v *volume) refresh() (changed bool) {
	v.t.Helper()
	next := v.b.fetch(v.t, again(v.req, v.held))
	v.held = next
	if !next.Unchanged {
		changed, v.files = true, text(next)
	}
	return changed
}

// sleep waits until the driver renews the lease.
func (v *volume) sleep() { time.Sleep(time.Until(v.held.Lease.Expires) * 2 / 3) }

// mustLogIn checks that the credentials in the volume work.
func (v *volume) mustLogIn() {
	v.t.Helper()
	if !v.b.Database("database").Login(v.files["username"], v.files["password"]) {
		v.t.Fatal("the database refuses the credentials in the volume")
	}
}

func (b *backend) hasLeases(t *testing.T, want int) {
	t.Helper()
	if got := b.Server.Leases(""); len(got) != want {
		t.Fatalf("the server has %d leases, want %d", len(got), want)
	}
}

func TestALeaseIsRenewedUntilItsLongestLifeAndThenReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true})
		b.Database("database").Role("app", vaulttest.Lifetime{TTL: 20 * time.Second, MaxTTL: time.Minute})
		v := b.volume(t, credentials)
		b.hasLeases(t, 1)
		replaced := 0
		for range 60 {
			v.sleep()
			v.mustLogIn()
			old := maps.Clone(v.files)
			if v.refresh() {
				replaced++
				if !b.Database("database").Login(old["username"], old["password"]) {
					t.Fatal("the old credentials end before anybody can have seen the new ones")
				}
			}
			v.mustLogIn()
			if got := len(b.Server.Leases("")); got > 2 {
				t.Fatalf("the server has %d leases for one volume", got)
			}
		}
		if replaced < 10 || replaced > 25 {
			t.Errorf("in thirteen minutes credentials that live one minute were replaced %d times", replaced)
		}
		if err := b.provider.Release(t.Context(), v.held.Lease); err != nil {
			t.Errorf("Release: %v", err)
		}
		time.Sleep(20 * time.Second)
		b.hasLeases(t, 0)
	})
}

func TestWhatIsReplacedEndsOneRenewalLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true})
		b.Database("database").Role("app", vaulttest.Lifetime{TTL: time.Hour, MaxTTL: time.Hour})
		v := b.volume(t, credentials)
		v.sleep()
		if !v.refresh() {
			t.Fatal("a lease that lives no longer was not replaced")
		}
		b.hasLeases(t, 2)
		time.Sleep(time.Minute)
		v.refresh()
		b.hasLeases(t, 2)
		b.Database("database").Role("app", vaulttest.Lifetime{TTL: time.Hour, MaxTTL: 9 * time.Hour})
		time.Sleep(19 * time.Minute)
		b.hasLeases(t, 1)
	})
}

func TestEachVolumeHasATokenOfItsOwn(t *testing.T) {
	b := newBackend(t, backendOptions{})
	one, two := b.volume(t, credentials), b.volume(t, credentials)
	b.hasLeases(t, 2)
	if err := b.provider.Release(t.Context(), one.held.Lease); err != nil {
		t.Fatal(err)
	}
	b.hasLeases(t, 1)
	two.mustLogIn()
	if one.files["username"] == two.files["username"] {
		t.Error("two volumes have the same user")
	}
	if got := b.Count("", "sys/leases/revoke"); got != 0 {
		t.Error("leases are revoked in a way that a policy must allow")
	}
}

func TestRenewalMintsNothingAndHasNoLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true})
		v := b.volume(t, credentials)
		b.ResetRequests()
		for range 5 {
			v.sleep()
			if v.refresh() {
				t.Fatal("a renewal changes files")
			}
		}
		if b.Logins() != 0 || b.Count("", "database/") != 0 || b.Count("", "sys/leases/renew") != 5 {
			t.Errorf("5 renewals are the requests %v", b.Requests())
		}
		b.ResetRequests()
		time.Sleep(time.Minute)
		v.refresh()
		if got := b.Requests(); len(got) != 0 {
			t.Errorf("a poll of a young lease asks for %v", got)
		}
	})
}

func TestTheTokenOfALeaseIsRenewedToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true, grant: vaulttest.Grant{TTL: 10 * time.Minute, MaxTTL: 2 * time.Hour}})
		v := b.volume(t, credentials)
		replaced := 0
		for end := time.Now().Add(10 * time.Hour); time.Now().Before(end); {
			v.sleep()
			v.mustLogIn()
			if v.refresh() {
				replaced++
			}
			v.mustLogIn()
		}
		if replaced < 4 || replaced > 7 {
			t.Errorf("in ten hours with tokens of two hours at most, credentials were replaced %d times", replaced)
		}
	})
}

func TestStaticSecretsChangeWithoutNewCredentials(t *testing.T) {
	b := newBackend(t, backendOptions{})
	b.putThree()
	v := b.volume(t, credentials+three)
	user := v.files["username"]
	b.KV2("secret").Put("a", map[string]any{"k": "new"})
	if !v.refresh() || v.files["a"] != "new" || v.files["username"] != user || len(v.files) != 6 {
		t.Errorf("after the change the volume has user %q (was %q) and a = %q", v.files["username"], user, v.files["a"])
	}
	b.hasLeases(t, 1)
	v.held.Versions = nil // what the driver does when a class is edited
	if !v.refresh() || v.files["username"] != user {
		t.Error("an edit of the class makes new credentials")
	}
	b.hasLeases(t, 1)
}

func TestAnEditOfTheClassThatLeasesMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true})
		v := b.volume(t, credentials)
		v.req.Parameters["objects"] += "- {objectName: other, secretPath: database/creds/other, secretKey: username}\n"
		b.Database("database").Role("other", vaulttest.Lifetime{TTL: time.Hour, MaxTTL: 9 * time.Hour})
		v.held.Versions = nil
		v.refresh()
		b.hasLeases(t, 3)
		v.sleep()
		v.refresh()
		synctest.Wait()
		b.hasLeases(t, 2)
		v.mustLogIn()
		if err := b.provider.Release(t.Context(), v.held.Lease); err != nil {
			t.Fatal(err)
		}
		b.hasLeases(t, 0)
	})
}

func TestAFetchThatFailsLeavesNoLease(t *testing.T) {
	for name, object := range map[string]string{
		"another secret is denied":  "- {objectName: x, secretPath: secret/data/denied, secretKey: k}",
		"another role is not there": "- {objectName: x, secretPath: database/creds/no, secretKey: username}",
		"a key is not there":        "- {objectName: x, secretPath: database/creds/app, secretKey: colour}",
		"another key is not there":  "- {objectName: x, secretPath: secret/data/a, secretKey: colour}",
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, backendOptions{grant: vaulttest.Grant{Deny: []string{"secret/data/denied"}}})
			b.putThree()
			if _, err := b.provider.Fetch(t.Context(), b.ask(credentials+object)); err == nil {
				t.Fatal("the fetch succeeds")
			}
			if err := b.provider.Close(); err != nil { // waits for what is in the background
				t.Fatal(err)
			}
			b.hasLeases(t, 0)
		})
	}
}

func TestAFetchThatNobodyWaitsForLeavesNoLease(t *testing.T) {
	b := newBackend(t, backendOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	b.KV1("kv").Put("x", map[string]any{"k": "v"})
	var gone atomic.Bool
	b.Respond("kv/x", func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		gone.Store(true)
		_, _ = w.Write([]byte(`{"data":{"k":"v"}}`))
	})
	_, err := b.provider.Fetch(ctx, b.ask(credentials+"- {objectName: x, secretPath: kv/x, secretKey: k}"))
	if !errors.Is(err, provider.ErrUnavailable) || !gone.Load() {
		t.Errorf("error %v, want ErrUnavailable", err)
	}
	if err := b.provider.Close(); err != nil {
		t.Fatal(err)
	}
	b.hasLeases(t, 0)
}

func TestARestartRenewsWithAnotherToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true})
		v := b.volume(t, credentials)
		b.restart(t)
		for range 5 {
			v.sleep()
			if v.refresh() {
				t.Fatal("a restart makes new credentials although the old ones can be renewed")
			}
			v.mustLogIn()
		}
		b.hasLeases(t, 1)
		v.held.Versions = nil
		if !v.refresh() {
			t.Error("nobody knows the credentials any more, so they must be made anew")
		}
		v.mustLogIn()
	})
}

func TestARestartLosesATokenThatDiesSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true, grant: vaulttest.Grant{TTL: 20 * time.Second}})
		b.Database("database").Role("app", vaulttest.Lifetime{TTL: 20 * time.Second, MaxTTL: time.Minute})
		v := b.volume(t, credentials)
		b.restart(t)
		for range 30 {
			v.sleep()
			v.mustLogIn()
			v.refresh()
			v.mustLogIn()
		}
	})
}

func TestReleaseAfterARestart(t *testing.T) {
	b := newBackend(t, backendOptions{grant: vaulttest.Grant{Allow: []string{"database/", "secret/", "sys/leases/revoke"}}})
	b.putThree()
	v := b.volume(t, credentials)
	b.restart(t)
	err := b.provider.Release(t.Context(), v.held.Lease)
	if !errors.Is(err, provider.ErrUnavailable) || !strings.Contains(err.Error(), "they will end by themselves") {
		t.Errorf("Release without any token: error %v, want ErrUnavailable", err)
	}
	b.hasLeases(t, 1)
	b.fetch(t, b.ask(three)) // a pod of the same identity
	if err := b.provider.Release(t.Context(), v.held.Lease); err != nil {
		t.Errorf("Release: %v", err)
	}
	b.hasLeases(t, 0)
}

func TestReleaseWhileTheServerIsAway(t *testing.T) {
	b := newBackend(t, backendOptions{})
	v := b.volume(t, credentials)
	b.Server.Break()
	if err := b.provider.Release(t.Context(), v.held.Lease); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("Release: error %v, want ErrUnavailable", err)
	}
	b.Server.Repair()
	for range 2 {
		if err := b.provider.Release(t.Context(), v.held.Lease); err != nil {
			t.Errorf("Release: %v", err)
		}
	}
	b.hasLeases(t, 0)
}

func TestReleaseOfWhatIsNobodys(t *testing.T) {
	b := newBackend(t, backendOptions{})
	for _, id := range []string{"", "{}", "null", `{"k":"x"}`, `{"k":"x","l":[null]}`, "database/creds/app/x", strings.Repeat("x", maxClaim+1)} {
		if err := b.provider.Release(t.Context(), provider.Lease{ID: id}); err != nil {
			t.Errorf("Release(%.20q): %v", id, err)
		}
	}
}

// A claim is from the driver, which has it from us; but it is only text.
func TestAClaimOfSomebodyElseIsWorthNothing(t *testing.T) {
	b := newBackend(t, backendOptions{})
	b.Kubernetes("kubernetes").Role("shop", vaulttest.Role{Namespace: "shop", Audience: "vault"})
	v := b.volume(t, credentials)
	intruder := b.ask(credentials)
	intruder.Pod.ServiceAccount = "intruder"
	intruder.Tokens["vault"] = provider.Token{Value: secret.New([]byte(b.ServiceAccountToken("shop", "intruder", "vault", time.Hour)))}
	own := b.fetch(t, intruder)
	c, _ := parseClaim(own.Lease.ID)
	other, _ := parseClaim(v.held.Lease.ID)
	for name, forged := range map[string]string{"as it is": v.held.Lease.ID, "under another identity": strings.Replace(v.held.Lease.ID, other.Identity, c.Identity, 1)} {
		intruder.Held = provider.Held{Lease: provider.Lease{ID: forged, Expires: time.Now().Add(time.Hour)}}
		if files := text(b.fetch(t, intruder)); files["username"] == v.files["username"] {
			t.Errorf("%s: the claim gives the credentials of somebody else", name)
		}
	}
	v.mustLogIn()
}

func TestAnOutageDoesNotReplaceCredentials(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true})
		v := b.volume(t, credentials)
		v.sleep()
		b.Seal()
		if _, err := b.provider.Fetch(t.Context(), again(v.req, v.held)); !errors.Is(err, provider.ErrUnavailable) {
			t.Errorf("error %v, want ErrUnavailable", err)
		}
		b.Unseal()
		if v.refresh() {
			t.Error("an outage makes new credentials")
		}
		b.hasLeases(t, 1)
	})
}

func TestALeaseThatSomebodyRevokedIsReplaced(t *testing.T) {
	for name, revoke := range map[string]func(*backend){
		"the lease": func(b *backend) { b.RevokeLease(b.Server.Leases("")[0]) },
		"the token": func(b *backend) { b.RevokeTokens() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBackend(t, backendOptions{pipe: true})
				v := b.volume(t, credentials)
				revoke(b)
				v.sleep()
				if !v.refresh() {
					t.Error("the volume keeps credentials that are dead")
				}
				v.mustLogIn()
				b.hasLeases(t, 1)
			})
		})
	}
}

func TestCloseLeavesLeasesAlone(t *testing.T) {
	b := newBackend(t, backendOptions{})
	v := b.volume(t, credentials)
	if err := b.provider.Close(); err != nil {
		t.Fatal(err)
	}
	b.hasLeases(t, 1)
	v.mustLogIn()
}

func TestAVolumeThatNobodyRenewsIsForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true})
		b.volume(t, credentials)
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		if got := len(b.provider.tenures.known); got != 0 || len(b.Tokens()) != 0 {
			t.Errorf("%d volumes are kept in mind, %d tokens live", got, len(b.Tokens()))
		}
	})
}

func TestCredentialsWithATokenOfTheSecret(t *testing.T) {
	b := newBackend(t, backendOptions{})
	given := b.Token(vaulttest.Grant{Allow: []string{"database/", "sys/leases/revoke"}})
	b.ask(credentials)
	req := b.ask(credentials)
	req.Parameters["vaultAuthMethod"], req.Credentials = "token", map[string]secret.Value{"token": secret.New([]byte(given + "\n"))}
	bundle := b.fetch(t, req)
	b.hasLeases(t, 1)
	if err := b.provider.Release(t.Context(), bundle.Lease); err != nil {
		t.Fatal(err)
	}
	b.hasLeases(t, 0)
	if err := b.provider.Close(); err != nil || len(b.Tokens()) != 1 {
		t.Errorf("a token that was given must not be revoked: %d live", len(b.Tokens()))
	}
}

func TestEnginesThatTheServerDoesNotTellOf(t *testing.T) {
	b := newBackend(t, backendOptions{})
	b.putThree()
	for _, path := range []string{"database/creds/app", "secret/data/a", "secret/data/b", "secret/data/c"} {
		b.Respond("sys/internal/ui/mounts/"+path, vaulttest.Raw(404, `{"errors":[]}`))
	}
	for range 3 {
		v := b.volume(t, credentials+three)
		if v.refresh() {
			t.Error("a poll finds a change where there is none")
		}
		v.mustLogIn()
		if err := b.provider.Release(t.Context(), v.held.Lease); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.provider.Close(); err != nil {
		t.Fatal(err)
	}
	if got := b.Server.Leases(""); len(got) > 1 { // the first, which was not expected
		t.Errorf("%d leases are left", len(got))
	}
}

const certificate = `
- {objectName: tls.crt, secretPath: pki/issue/web, secretKey: certificate, method: PUT, secretArgs: {common_name: a.example, ttl: 1h}}
- {objectName: tls.key, secretPath: pki/issue/web, secretKey: private_key, method: PUT, secretArgs: {common_name: a.example, ttl: 1h}}
- {objectName: other.crt, secretPath: pki/issue/web, secretKey: certificate, method: PUT, secretArgs: {common_name: b.example, ttl: 9h}}
- {objectName: ca.crt, secretPath: pki/cert/ca, secretKey: certificate}
`

func TestCertificatesAreIssuedTowardsTheirEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, backendOptions{pipe: true})
		b.PKI("pki").Role("web", vaulttest.PKIRole{})
		v := b.volume(t, certificate)
		issued := func() int { return b.Count("PUT", "pki/issue/") }
		if v.files["tls.crt"] == v.files["other.crt"] || issued() != 2 {
			t.Fatalf("two certificates of one path are one, or %d were issued", issued())
		}
		if _, err := tls.X509KeyPair([]byte(v.files["tls.crt"]), []byte(v.files["tls.key"])); err != nil {
			t.Errorf("certificate and key: %v", err)
		}
		for range 16 {
			time.Sleep(2 * time.Minute)
			if v.refresh() {
				t.Fatal("a young certificate is replaced")
			}
		}
		if got := time.Until(v.held.Lease.Expires); got > 28*time.Minute || got < 27*time.Minute {
			t.Errorf("the first certificate ends in %v, want in 28 minutes", got)
		}
		time.Sleep(8 * time.Minute)
		if !v.refresh() || issued() != 4 {
			t.Errorf("%d certificates were issued, want 4", issued())
		}
		if _, err := tls.X509KeyPair([]byte(v.files["tls.crt"]), []byte(v.files["tls.key"])); err != nil {
			t.Errorf("certificate and key: %v", err)
		}
	})
}

func FuzzClaim(f *testing.F) {
	f.Add(`{"k":"x","i":"y","t":1,"d":2,"l":[{"r":"a","l":"b","s":3}]}`)
	f.Add(`{"k":"x","l":[{"s":-9223372036854775808}]}`)
	f.Fuzz(func(t *testing.T, id string) {
		c, ok := parseClaim(id)
		if !ok {
			return
		}
		tenure := c.resumed(time.Now().Add(time.Hour))
		_, _, _ = tenure.end(), c.wanes(time.Now()), c.matured(time.Now())
		if _, err := c.id(); err != nil && !errors.Is(err, provider.ErrInvalid) {
			t.Errorf("id: %v", err)
		}
	})
}

func TestMoreLeasesThanAVolumeCanRemember(t *testing.T) {
	b := newBackend(t, backendOptions{})
	var list strings.Builder
	for i := range 60 {
		role := fmt.Sprintf("role-%d", i)
		b.Database("database").Role(role, vaulttest.Lifetime{TTL: time.Hour})
		fmt.Fprintf(&list, "- {objectName: %[1]s, secretPath: database/creds/%[1]s, secretKey: username}\n", role)
	}
	_, err := b.provider.Fetch(t.Context(), b.ask(list.String()))
	if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), "60 answers") {
		t.Errorf("error %v, want ErrInvalid", err)
	}
	if err := b.provider.Close(); err != nil {
		t.Fatal(err)
	}
	b.hasLeases(t, 0)
}
