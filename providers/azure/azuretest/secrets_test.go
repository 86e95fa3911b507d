package azuretest_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/keymount/keymount/providers/azure/azuretest"
)

func TestASecretHasVersions(t *testing.T) {
	s := newShop(t, nil)
	v, c := s.Vault("kv1"), newClient(t, s)
	first := v.PutSecret("db", "one")
	expires, notBefore := time.Now().Add(time.Hour).Truncate(time.Second).UTC(), time.Now().Add(time.Minute).Truncate(time.Second).UTC()
	last := v.PutSecretWith("db", azuretest.Secret{Value: "two", ContentType: "text/plain", Expires: expires, NotBefore: notBefore})

	newest := must[azsecrets.GetSecretResponse](t)(c.secrets.GetSecret(t.Context(), "DB", "", nil))
	expect(t, "value", *newest.Value, "two")
	expect(t, "ID", string(*newest.ID), kv1+"/secrets/db/"+last)
	expect(t, "content type", *newest.ContentType, "text/plain")
	expect(t, "expires", *newest.Attributes.Expires, expires)
	expect(t, "not before", *newest.Attributes.NotBefore, notBefore)
	expect(t, "is enabled", *newest.Attributes.Enabled, true)
	if newest.KID != nil || newest.Managed != nil {
		t.Error("a secret is said to be of a certificate")
	}
	old := must[azsecrets.GetSecretResponse](t)(c.secrets.GetSecret(t.Context(), "db", first, nil))
	expect(t, "old value", *old.Value, "one")
	if !old.Attributes.Created.Before(*newest.Attributes.Created) {
		t.Errorf("created %v, then %v", old.Attributes.Created, newest.Attributes.Created)
	}
}
func TestAVaultRefusesReads(t *testing.T) {
	s := newShop(t, nil)
	v, c := s.Vault("kv1"), newClient(t, s)
	version := v.PutSecret("db", "one")
	v.PutSecretWith("off", azuretest.Secret{Value: "one", Disabled: true})
	v.PutSecret("gone", "one")
	v.Delete("gone")
	v.PutSecret("denied", "one")
	v.Deny(strings.ToUpper(shop), "secrets/get", "Denied")
	for _, r := range []struct{ name, version, code, part string }{
		{"none", "", "Not Found: SecretNotFound", "A secret with (name/id) none was not found in this key vault"},
		{"gone", "", "Not Found: SecretNotFound", "you may be able to recover it"},
		{"db", "latest", "Not Found: SecretNotFound", "(name/id) db/latest"},
		{"off", "", "Forbidden: Forbidden", `"SecretDisabled"`},
		{"denied", "", "Forbidden: Forbidden", `"ForbiddenByRbac"`},
		{"denied", "", "Forbidden: Forbidden", "secrets/getSecret/action"},
		{"a_b", "", "Bad Request: BadParameter", "invalid name: a_b"},
		{"a/b", "", "Bad Request: BadParameter", "invalid name: a/b"},
		{strings.Repeat("x", 128), "", "Bad Request: BadParameter", "invalid name"},
	} {
		t.Run(r.name+" "+r.version, func(t *testing.T) {
			refused(t, second(c.secrets.GetSecret(t.Context(), r.name, r.version, nil)), r.code, r.part)
		})
	}
	v.Allow(shop, "secrets/get", "denied")
	expect(t, "what is denied no more", c.secret(t, "denied"), "one")
	newer := v.PutSecret("db", "two")
	v.Disable("secrets", "db", newer)
	refused(t, second(c.secrets.GetSecret(t.Context(), "db", "", nil)), "Forbidden: Forbidden", "Operation get is not allowed on a disabled secret.")
	expect(t, "the version before", *must[azsecrets.GetSecretResponse](t)(c.secrets.GetSecret(t.Context(), "db", version, nil)).Value, "one")
	refused(t, second(c.secrets.SetSecret(t.Context(), "db", azsecrets.SetSecretParameters{Value: new("x")}, nil)), "Method Not Allowed: MethodNotAllowed", "")
}

// versions returns what all pages of versions say, and how many pages.
func (c *client) versions(t testing.TB, name string) (all []*azsecrets.SecretProperties, pages int) {
	t.Helper()
	for p := c.secrets.NewListSecretPropertiesVersionsPager(name, nil); p.More(); pages++ {
		all = append(all, must[azsecrets.ListSecretPropertiesVersionsResponse](t)(p.NextPage(t.Context())).Value...)
	}
	return all, pages
}

func TestVersionsAreListedInPages(t *testing.T) {
	s := newShop(t, &azuretest.Options{PageSize: 2})
	v, c := s.Vault("kv1"), newClient(t, s)
	var made []string
	for range 5 {
		made = append(made, v.PutSecret("db", "x"))
	}
	v.Disable("secrets", "db", made[1])
	all, pages := c.versions(t, "db")
	expect(t, "pages", pages, 3)
	slices.SortFunc(all, func(a, b *azsecrets.SecretProperties) int { return a.Attributes.Created.Compare(*b.Attributes.Created) })
	var listed []string
	for _, p := range all {
		listed = append(listed, p.ID.Version())
		expect(t, "enabled", *p.Attributes.Enabled, p.ID.Version() != made[1])
	}
	expect(t, "versions as they were made", listed, made)
	all, pages = c.versions(t, "none")
	expect(t, "versions and pages of what is not there", []int{len(all), pages}, []int{0, 1})
	v.Deny(shop, "secrets/list", "")
	refused(t, second(c.secrets.NewListSecretPropertiesVersionsPager("db", nil).NextPage(t.Context())), "Forbidden: Forbidden", "secrets/readMetadata/action")
}
