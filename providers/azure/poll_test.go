package azure

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/azure/azuretest"
)

// What 50 volumes of one identity cost, each on its own: a driver that shares
// fetches asks once for volumes of one class.
func TestWhatVolumesCost(t *testing.T) {
	const volumes = 50
	login := map[string]int{"entra/instance": 1, "entra/openid": 1, "entra/token": 1}
	with := func(more map[string]int) map[string]int {
		all := map[string]int{}
		for _, counts := range []map[string]int{login, more} {
			for operation, n := range counts {
				all[operation] += n
			}
		}
		return all
	}
	for _, c := range []struct {
		name        string
		objects     func(b *backend) string
		start, poll map[string]int // of all volumes
	}{
		{"5 secrets", func(b *backend) string {
			for i := range 5 {
				b.vault.PutSecret(fmt.Sprint("n", i), "x")
			}
			return many(5)
		}, with(map[string]int{"secrets/get": 5 * volumes}), map[string]int{"secrets/get": 5 * volumes}},
		{"a secret, a key and a certificate", func(b *backend) string {
			c := newChain(t, newKey(t))
			b.vault.PutCertificate("web", azuretest.Certificate{Chain: ders(c.leaf), Key: c.key})
			return "- {objectName: web, objectType: secret}\n- {objectName: web, objectType: key, objectAlias: k}\n- {objectName: web, objectType: cert, objectAlias: c}"
		}, with(map[string]int{"secrets/get": volumes, "keys/get": volumes, "certificates/get": volumes}),
			map[string]int{"secrets/get": volumes, "keys/get": volumes, "certificates/get": volumes}},
		{"a certificate in three files", func(b *backend) string {
			c := newChain(t, newKey(t))
			b.vault.PutCertificate("web", azuretest.Certificate{Chain: ders(c.leaf), Key: c.key})
			return "[" + web + "separateFiles: true}]"
		}, with(map[string]int{"secrets/get": volumes}), map[string]int{"secrets/get": volumes}},
		{"3 secrets that are pinned", func(b *backend) string {
			var objects strings.Builder
			for i := range 3 {
				fmt.Fprintf(&objects, "- {objectName: n%d, objectType: secret, objectVersion: %s}\n", i, b.vault.PutSecret(fmt.Sprint("n", i), "x"))
			}
			return objects.String()
		}, with(map[string]int{"secrets/get": 3 * volumes}), map[string]int{}},
		{"3 versions of 30", func(b *backend) string {
			for i := range 30 {
				b.vault.PutSecret("db", fmt.Sprint(i))
			}
			return "[{objectName: db, objectType: secret, objectVersionHistory: 3}]"
		}, with(map[string]int{"secrets/versions": 2 * volumes, "secrets/get": 3 * volumes}), map[string]int{"secrets/versions": 2 * volumes}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackendOf(t, nil, &Options{Rate: 1e6})
			objects := c.objects(b)
			b.Forget()
			bundles := make([]*provider.Bundle, volumes)
			for i := range bundles {
				bundles[i] = b.fetch(t, b.ask(objects))
			}
			expect(t, "calls at the start", b.counts(), c.start)
			for _, bundle := range bundles {
				b.poll(t, b.ask(objects), bundle)
			}
			expect(t, "calls of a poll", b.counts(), c.poll)
		})
	}
}

func TestVersionsAreThoseOfTheVault(t *testing.T) {
	b := newBackend(t)
	id := b.vault.PutSecret("db", "x")
	held := b.fetch(t, b.ask(list("secret", "db")))
	expect(t, "versions", held.Versions, provider.Versions{"secret/db": id})
	req := b.ask(list("secret", "db"))
	req.Held.Versions = held.Versions
	id = b.vault.PutSecret("db", "y")
	changed := b.fetch(t, req)
	expect(t, "versions", changed.Versions, provider.Versions{"secret/db": id})
	expect(t, "files", contents(changed), map[string]string{"db": "y"})
}

// The upstream provider writes one version more than it is asked for, where
// there are as many.
func TestAHistoryHasAsManyVersionsAsAreAskedFor(t *testing.T) {
	const history = "[{objectName: db, objectType: secret, objectVersionHistory: 3%s}]"
	for _, pageSize := range []int{0, 2} {
		b := newBackendOf(t, &azuretest.Options{PageSize: pageSize}, nil)
		var ids []string
		for i := range 6 {
			ids = append(ids, b.vault.PutSecret("db", fmt.Sprint("v", i)))
		}
		latest := b.fetch(t, b.ask(fmt.Sprintf(history, "")))
		expect(t, "files", contents(latest), map[string]string{"db/0": "v5", "db/1": "v4", "db/2": "v3"})
		expect(t, "versions", latest.Versions, provider.Versions{"secret/db/0": ids[5], "secret/db/1": ids[4], "secret/db/2": ids[3]})
		expect(t, "files", contents(b.fetch(t, b.ask(fmt.Sprintf(history, ", objectVersion: latest")))), contents(latest))
		expect(t, "files from one back", contents(b.fetch(t, b.ask(fmt.Sprintf(history, ", objectVersion: "+ids[1])))), map[string]string{"db/0": "v1", "db/1": "v0"})

		b.vault.Disable("secrets", "db", ids[4])
		req := b.ask(fmt.Sprintf(history, ""))
		req.Held.Versions = latest.Versions
		expect(t, "files without one that is disabled", contents(b.fetch(t, req)), map[string]string{"db/0": "v5", "db/1": "v3", "db/2": "v2"})
		b.refused(t, b.ask(fmt.Sprintf(history, ", objectVersion: "+ids[4])), provider.ErrNotFound, "it is not among those that are enabled", "version "+ids[4])
	}
}

func TestAHistoryOfKeysAndCertificates(t *testing.T) {
	b := newBackend(t)
	first, second := newChain(t, newKey(t)), newChain(t, newKey(t))
	for _, c := range []chain{first, second} {
		b.vault.PutCertificate("web", azuretest.Certificate{Chain: ders(c.leaf), Key: c.key})
	}
	expect(t, "files", contents(b.fetch(t, b.ask("[{objectName: web, objectType: key, objectVersionHistory: 5, objectAlias: k}, {objectName: web, objectType: cert, objectVersionHistory: 5, objectAlias: c}]"))),
		map[string]string{
			"k/0": publicPEM(t, second.key.Public()), "k/1": publicPEM(t, first.key.Public()), "c/0": pems(second.leaf), "c/1": pems(first.leaf),
		})
}

func TestANewVersionOfAHistoryMovesTheOthers(t *testing.T) {
	b := newBackend(t)
	b.vault.PutSecret("db", "v0")
	b.vault.PutSecret("db", "v1")
	const history = "[{objectName: db, objectType: secret, objectVersionHistory: 2}]"
	held := b.fetch(t, b.ask(history))
	b.poll(t, b.ask(history), held)
	b.vault.PutSecret("db", "v2")
	req := b.ask(history)
	req.Held.Versions = held.Versions
	expect(t, "files", contents(b.fetch(t, req)), map[string]string{"db/0": "v2", "db/1": "v1"})
}

func TestWhatIsPinnedIsReadAgainWhereItsEndIsNotKnown(t *testing.T) {
	b := newBackend(t)
	pinned := fmt.Sprintf("[{objectName: db, objectType: secret, objectVersion: %s}]", b.vault.PutSecret("db", "x"))
	held := b.fetch(t, b.ask(pinned))
	b.vault.PutSecret("db", "y")
	b.provider = b.start(t, nil)
	b.Forget()
	b.poll(t, b.ask(pinned), held)
	b.poll(t, b.ask(pinned), held)
	expect(t, "reads", b.Count("secrets/get"), 1)
}

func TestAnOptionalObjectComesAndGoes(t *testing.T) {
	for _, objects := range []string{
		"[{objectName: db, objectType: secret, optional: true}]",
		"[{objectName: db, objectType: secret, objectAlias: db, optional: true, objectVersionHistory: 2}]",
	} {
		b := newBackend(t)
		held := b.fetch(t, b.ask(objects))
		expect(t, "files", len(held.Files), 0)
		b.poll(t, b.ask(objects), held)
		b.vault.PutSecret("db", "x")
		req := b.ask(objects)
		req.Held.Versions = held.Versions
		expect(t, "files", len(b.fetch(t, req).Files), 1)
		b.vault.Delete("db")
		expect(t, "files", len(b.fetch(t, b.ask(objects)).Files), 0)
		b.vault.Deny(testClient, "secrets/get", "")
		b.vault.Deny(testClient, "secrets/list", "")
		b.refused(t, b.ask(objects), provider.ErrDenied, "403 Forbidden")
	}
}

// A host that is in the way may answer 404, too; so may Entra ID.
func TestNotFoundIsOnlyWhatTheVaultSaysSoOf(t *testing.T) {
	const optional = "[{objectName: db, objectType: secret, optional: true}]"
	b := newBackend(t)
	b.vault.Fail("secrets/get", azuretest.Fault{Status: http.StatusNotFound, Code: "Gone"})
	b.refused(t, b.ask(optional), provider.ErrUnavailable, "404 Gone")
	b.provider = b.start(t, nil)
	b.Entra().Fail("entra/token", azuretest.Fault{Status: http.StatusNotFound, Code: "not_found"})
	b.refused(t, b.ask(optional), provider.ErrUnavailable, "no token of Entra ID")
}

func TestErrorsSayWhatWasAskedOfWhom(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(b *backend)
		reason error
		parts  []string
	}{
		{"not there", func(b *backend) { b.vault.Delete("db") }, provider.ErrNotFound, []string{"vault kv1: get of secret/db as service account shop/web", "404 SecretNotFound", "(request "}},
		{"not allowed", func(b *backend) { b.vault.Deny(testClient, "secrets/get", "db") }, provider.ErrDenied, []string{"403 Forbidden (ForbiddenByRbac)"}},
		{"out of order", func(b *backend) { b.vault.Break() }, provider.ErrUnavailable, []string{"503"}},
		{"behind a firewall", func(b *backend) {
			b.vault.Fail("secrets/get", azuretest.Fault{Status: http.StatusForbidden, Code: "Forbidden", Inner: "ForbiddenByFirewall", Message: "Client address is not authorized."})
		}, provider.ErrDenied, []string{"403 Forbidden (ForbiddenByFirewall): Client address is not authorized."}},
		{"wrong", func(b *backend) {
			b.vault.Fail("secrets/get", azuretest.Fault{Status: http.StatusBadRequest, Code: "BadParameter", Message: "The parameter is\nincorrect."})
		}, provider.ErrInvalid, []string{"400 BadParameter: The parameter is incorrect."}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			b.vault.PutSecret("db", "x")
			c.change(b)
			b.refused(t, b.ask(list("secret", "db")), c.reason, c.parts...)
		})
	}
	b := newBackend(t)
	id := b.vault.PutSecret("db", "x")
	b.vault.Disable("secrets", "db", id)
	b.refused(t, b.ask(list("secret", "db")), provider.ErrDenied, "403 Forbidden (SecretDisabled)")
	b.refused(t, b.ask("[{objectName: db, objectType: secret, objectVersion: "+id+"}]"), provider.ErrDenied, "get of secret/db version "+id)
	b.refused(t, b.ask(list("secret", "db"), map[string]string{"keyvaultName": "nowhere"}), provider.ErrUnavailable, "there is no host nowhere.vault.azure.net")
	b.refused(t, b.ask(list("secret", "db"), map[string]string{"keyvaultName": "another"}), provider.ErrUnavailable)
}

func TestWhatHasExpiredIsServedWithAWarning(t *testing.T) {
	past, soon := time.Now().Add(-time.Hour).Truncate(time.Second), time.Now().Add(time.Hour).Truncate(time.Second)
	key := newKey(t)
	expired := sign(t, "leaf", nil, key.Public(), key, -time.Hour)
	put := func(b *backend) string {
		b.vault.PutSecretWith("old", azuretest.Secret{Value: "v", Expires: past})
		id := b.vault.PutSecretWith("old", azuretest.Secret{Value: "x", Expires: past})
		b.vault.PutSecretWith("new", azuretest.Secret{Value: "y", Expires: soon})
		b.vault.PutSecretWith("newer", azuretest.Secret{Value: "y", Expires: soon.Add(time.Hour)})
		b.vault.PutSecret("forever", "z")
		return id
	}
	const objects = "- {objectName: old, objectType: secret, objectVersionHistory: 2}\n"
	b := newBackend(t)
	id := put(b)
	ask := func() *provider.Request { return b.ask(objects + list("secret", "new", "newer", "forever")) }
	held := b.fetch(t, ask())
	want := []provider.Warning{{Reason: provider.Expired, Message: "vault kv1: secret/old version " + id + " has expired at " + past.UTC().Format(time.RFC3339)}}
	expect(t, "warnings", held.Warnings, want)
	expect(t, "end", held.Expires.UTC(), soon.UTC())
	expect(t, "files", contents(held), map[string]string{"old/0": "x", "old/1": "v", "new": "y", "newer": "y", "forever": "z"})
	expect(t, "warnings of a poll", b.poll(t, ask(), held).Warnings, want)

	b.vault.PutCertificate("web", azuretest.Certificate{Chain: ders(expired), Key: key})
	for _, objects := range []string{list("cert", "web"), list("secret", "web")} {
		expect(t, "warnings of a certificate", len(b.fetch(t, b.ask(objects)).Warnings), 1)
	}
	b.vault.PutCertificate("web", azuretest.Certificate{Chain: ders(expired), Key: key, Expires: soon})
	if w := b.fetch(t, b.ask(list("cert", "web"))).Warnings; len(w) != 1 || !strings.Contains(w[0].Message, expired.NotAfter.UTC().Format(time.RFC3339)) {
		t.Errorf("warnings of a certificate that ends before its date: %v", w)
	}

	b = newBackendOf(t, nil, &Options{RefuseExpired: true})
	put(b)
	b.refused(t, ask(), provider.ErrDenied, "secret/old version", "--azure-refuse-expired")
	b.fetch(t, b.ask(list("secret", "new", "forever")))
}

func TestWhatIsPinnedExpiresWithoutACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackendOf(t, &azuretest.Options{Pipe: true}, nil)
		id := b.vault.PutSecretWith("db", azuretest.Secret{Value: "x", Expires: time.Now().Add(time.Hour)})
		pinned := "[{objectName: db, objectType: secret, objectVersion: " + id + "}]"
		held := b.fetch(t, b.ask(pinned))
		b.Forget()
		time.Sleep(30 * time.Minute)
		expect(t, "warnings", len(b.poll(t, b.ask(pinned), held).Warnings), 0)
		time.Sleep(31 * time.Minute)
		poll := b.poll(t, b.ask(pinned), held)
		expect(t, "warnings", len(poll.Warnings), 1)
		expect(t, "end", poll.Expires.IsZero(), true)
		expect(t, "calls", len(b.Calls()), 0)
	})
}

func TestAFetchMakesFewCallsAtOnceAndEndsAtTheFirstThatFails(t *testing.T) {
	b := newBackend(t)
	for i := range 40 {
		b.vault.PutSecret(fmt.Sprint("n", i), "x")
	}
	expect(t, "files", len(b.fetch(t, b.ask(many(40))).Files), 40)
	b.vault.Delete("n0")
	b.Forget()
	b.refused(t, b.ask(many(40)), provider.ErrNotFound, "secret/n0")
	if n := b.Count("secrets/get"); n > 39 {
		t.Errorf("%d reads though the first one failed", n)
	}
}

func TestManyThatHaveExpiredAreWarnedOfWithinBounds(t *testing.T) {
	b := newBackend(t)
	for i := range 100 {
		b.vault.PutSecretWith(fmt.Sprint("n", i), azuretest.Secret{Value: "x", Expires: time.Now().Add(-time.Hour)})
	}
	expect(t, "warnings", len(b.fetch(t, b.ask(many(100))).Warnings), 64)
}

// Whatever a service answers, the error is one line, has a reason and does not
// show what proves the identity.
func FuzzProblem(f *testing.F) {
	f.Add(404, `{"error":{"code":"SecretNotFound","message":"x","innererror":{"code":"y"}}}`)
	f.Add(401, `{"error":"invalid_client","error_description":"AADSTS700213: No canary-token. Trace ID: 1"}`)
	f.Add(500, `<html>`)
	f.Add(429, `{"error":null}`)
	f.Fuzz(func(t *testing.T, status int, body string) {
		resp := &http.Response{StatusCode: status, Header: http.Header{"X-Ms-Request-Id": {body}}, Body: io.NopCloser(strings.NewReader(body))}
		p := describe(resp, secret.New([]byte("canary-token")))
		text := p.Error()
		if provider.Reason(p) == "Internal" || errors.Is(p, provider.ErrNotFound) && status != 404 {
			t.Errorf("the reason is %v", p.reason)
		}
		if strings.ContainsAny(text, "\n\r\x00") || strings.Contains(text, "canary-token") || len(text) > 4*maxMessage+100 {
			t.Errorf("the error is %q", text)
		}
	})
}

// Whatever a vault says is a certificate, it is written as one.
func FuzzDecodeCER(f *testing.F) {
	key := newKey(f)
	f.Add(sign(f, "leaf", nil, key.Public(), key, time.Hour).Raw)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, der []byte) {
		text, end := decodeCER(der)
		if _, err := x509.ParseCertificate(der); (err != nil) != end.IsZero() && err != nil {
			t.Errorf("%v, %v", end, err)
		}
		if !strings.HasPrefix(string(text), "-----BEGIN CERTIFICATE-----\n") {
			t.Errorf("it is %q", text)
		}
	})
}
