package stores

import (
	"maps"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/vault"
	"github.com/keymount/keymount/test/stores/issuer"
	"github.com/keymount/keymount/test/stores/openbao"
)

const passwordObject = `[{objectName: password, secretPath: kv/data/db, secretKey: password}]`

// newKV returns a world where the policy app lets read the secret kv/data/db,
// and that secret.
func newKV(t testing.TB, opts *openbao.Options) (*world, string) {
	t.Helper()
	w := newWorld(t, opts)
	w.MountKV(t, "kv", 2)
	w.Policy(t, "app", map[string]string{"kv/data/db": "read", "kv/metadata/db": "read"})
	return w, w.put(t, w.Client)
}

// put stores a new password, and returns it.
func (w *world) put(t testing.TB, c *openbao.Client) string {
	t.Helper()
	password := newSecret()
	c.Write(t, "kv/data/db", openbao.Fields{"data": openbao.Fields{"password": password}})
	return password
}

// mustHave fetches the password.
func mustHave(t testing.TB, p provider.Provider, req *provider.Request, password string) *provider.Bundle {
	t.Helper()
	bundle := fetch(t, p, req)
	if got := file(t, bundle, "password"); got != password {
		t.Errorf("the file has %d bytes that are not the password", len(got))
	}
	return bundle
}

func TestServiceAccountTokensLogIn(t *testing.T) {
	w, password := newKV(t, nil)
	w.EnableAuth(t, "jwt", "jwt", openbao.Fields{"jwt_validation_pubkeys": w.issuer.PublicKey(t), "bound_issuer": issuer.Name})
	w.Write(t, "auth/jwt/role/app", openbao.Fields{
		"role_type": "jwt", "user_claim": "sub", "bound_audiences": "openbao",
		"bound_subject": "system:serviceaccount:shop:web", "token_policies": "app",
	})
	other := web
	other.ServiceAccount = "other"
	elsewhere := web
	elsewhere.Namespace = "elsewhere"
	parameters := map[string]map[string]string{"kubernetes": {}, "jwt": {"openbaoAuthMethod": "jwt"}}
	for _, c := range []struct {
		name            string
		pod             provider.Pod
		role            string
		audience        string
		lifetime        time.Duration
		kubernetes, jwt string // what the server says
	}{
		{name: "another service account", pod: other, kubernetes: "service account name not authorized", jwt: "invalid subject (sub) claim"},
		{name: "another namespace", pod: elsewhere, kubernetes: "namespace not authorized", jwt: "invalid subject (sub) claim"},
		{name: "another audience", pod: web, audience: "sts.amazonaws.com", kubernetes: "invalid audience (aud) claim", jwt: "invalid audience (aud) claim"},
		{name: "no such role", pod: web, role: "nobody", kubernetes: `invalid role name "nobody"`, jwt: `role "nobody" could not be found`},
		{name: "an expired token", pod: web, lifetime: -10 * time.Minute, kubernetes: "expired", jwt: "expired"},
	} {
		for method, said := range map[string]string{"kubernetes": c.kubernetes, "jwt": c.jwt} {
			t.Run(method+"/"+c.name, func(t *testing.T) {
				req := w.askAs(t, c.pod, passwordObject, parameters[method])
				if c.role != "" {
					req.Parameters["roleName"] = c.role
				}
				if c.audience != "" || c.lifetime != 0 { // which the server finds out, not the provider
					audience, lifetime := c.audience, c.lifetime
					if audience == "" {
						audience = "openbao"
					}
					if lifetime == 0 {
						lifetime = time.Hour
					}
					req.Tokens["openbao"] = provider.Token{Value: w.issuer.Token(t, c.pod, audience, lifetime).Value}
				}
				fails(t, w.provider(t, vault.OpenBao, nil), req, provider.ErrDenied, said)
			})
		}
	}
	for method, p := range parameters {
		t.Run(method, func(t *testing.T) {
			mustHave(t, w.provider(t, vault.OpenBao, nil), w.ask(t, passwordObject, p), password)
		})
	}
	t.Run("an audience that kubelet does not bring", func(t *testing.T) {
		req := w.ask(t, passwordObject, map[string]string{"audience": "elsewhere"})
		fails(t, w.provider(t, vault.OpenBao, nil), req, provider.ErrDenied, `audience "elsewhere": list it in spec.tokenRequests`)
	})
}

func TestCredentialsOfASecretLogIn(t *testing.T) {
	w, password := newKV(t, nil)
	clients := openbao.NewAuthority(t)
	certificate, key := clients.Issue(t, "web")
	stranger, strangersKey := openbao.NewAuthority(t).Issue(t, "web")
	w.EnableAuth(t, "cert", "cert", nil)
	w.Write(t, "auth/cert/certs/app", openbao.Fields{"certificate": string(clients.PEM()), "token_policies": "app"})
	w.EnableAuth(t, "approle", "approle", nil)
	w.Write(t, "auth/approle/role/app", openbao.Fields{"token_policies": "app"})
	roleID := w.Read(t, "auth/approle/role/app/role-id").Text(t, "role_id")
	secretID := w.Write(t, "auth/approle/role/app/secret-id", openbao.Fields{}).Text(t, "secret_id")
	token := w.Write(t, "auth/token/create", openbao.Fields{"policies": []string{"app"}, "no_parent": true}).Auth.ClientToken
	said.forbid(secretID, token, string(key), string(strangersKey))

	for _, c := range []struct {
		method    string
		good, bad map[string]string
		said      string // of the bad ones
	}{
		{"approle", map[string]string{"role_id": roleID, "secret_id": secretID}, map[string]string{"role_id": roleID, "secret_id": newSecret()}, "invalid role or secret ID"},
		{"token", map[string]string{"token": token}, map[string]string{"token": newSecret()}, "403"},
		{
			"cert", map[string]string{"tls.crt": string(certificate), "tls.key": string(key)},
			map[string]string{"tls.crt": string(stranger), "tls.key": string(strangersKey)}, "invalid certificate or no client certificate supplied",
		},
	} {
		t.Run(c.method, func(t *testing.T) {
			p := w.provider(t, vault.OpenBao, nil)
			req := w.ask(t, passwordObject, map[string]string{"openbaoAuthMethod": c.method})
			req.Tokens, req.Credentials = nil, credentials(c.bad)
			fails(t, p, req, provider.ErrDenied, c.said)
			req.Credentials = map[string]secret.Value{}
			fails(t, p, req, provider.ErrInvalid, "nodePublishSecretRef")
			req.Credentials = credentials(c.good)
			bundle := mustHave(t, p, req, password)
			if again := fetch(t, p, w.holding(t, bundle, req)); !again.Unchanged {
				t.Error("a poll says that something has changed")
			}
		})
	}
	if _, err := w.Do(t.Context(), "POST", "auth/token/lookup", openbao.Fields{"token": token}); err != nil {
		t.Errorf("the token of the Secret was revoked, which is not the provider's: %v", err)
	}
}

// The parameters of both products, and of older classes, name the mount.
func TestMountsHaveOtherNames(t *testing.T) {
	w, password := newKV(t, nil)
	w.EnableKubernetes(t, "clusters/east", w.issuer)
	w.Write(t, "auth/clusters/east/role/east", openbao.Fields{
		"bound_service_account_names": "web", "bound_service_account_namespaces": "shop", "token_policies": "app",
	})
	for _, c := range []struct {
		product    vault.Product
		parameters map[string]string
	}{
		{vault.OpenBao, map[string]string{"baoAuthMountPath": "clusters/east"}},
		{vault.OpenBao, map[string]string{"vaultKubernetesMountPath": "clusters/east"}},
		{vault.Vault, map[string]string{"vaultKubernetesMountPath": "clusters/east", "audience": "openbao"}},
		{vault.Vault, map[string]string{"vaultAuthMountPath": "/clusters/east/", "audience": "openbao"}},
	} {
		parameters := maps.Clone(c.parameters)
		parameters["roleName"] = "east"
		mustHave(t, w.provider(t, c.product, nil), w.ask(t, passwordObject, parameters), password)
	}
}

func TestNamespacesAreApart(t *testing.T) {
	w, password := newKV(t, nil)
	team := w.Namespace(t, "team")
	team.EnableKubernetes(t, "kubernetes", w.issuer)
	team.Write(t, "auth/kubernetes/role/app", openbao.Fields{
		"bound_service_account_names": "web", "bound_service_account_namespaces": "shop", "audience": "openbao", "token_policies": "app",
	})
	team.MountKV(t, "kv", 2)
	team.Policy(t, "app", map[string]string{"kv/data/db": "read", "kv/metadata/db": "read"})
	ofTeam := w.put(t, team)

	p := w.provider(t, vault.OpenBao, nil)
	inTeam := w.ask(t, passwordObject, map[string]string{"openbaoNamespace": "team"})
	root := mustHave(t, p, w.ask(t, passwordObject, nil), password)
	bundle := mustHave(t, p, inTeam, ofTeam)
	if again := fetch(t, p, w.holding(t, bundle, inTeam)); !again.Unchanged {
		t.Error("a poll in the namespace says that something has changed")
	}
	if root.Versions.Equal(bundle.Versions) {
		t.Errorf("the secrets of two namespaces have the same versions: %v", root.Versions)
	}
	mustHave(t, w.provider(t, vault.OpenBao, func(o *vault.Options) { o.Namespace = "team" }), w.ask(t, passwordObject, nil), ofTeam)
	fails(t, p, w.ask(t, passwordObject, map[string]string{"openbaoNamespace": "nobody"}), provider.ErrDenied, "failed to login")
}
