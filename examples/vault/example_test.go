// Package vault_test runs the examples as they are written, against a server
// that is set up as README.md says.
package vault_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/vault"
	"github.com/keymount/keymount/providers/vault/vaulttest"
)

// examples are the classes, in the order of expected.txt.
var examples = []string{"static", "database", "pki", "jwt"}

func text(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// manifest is what the tests need of a class or a pod.
type manifest struct {
	APIVersion string `json:"apiVersion"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec struct {
		Provider           string            `json:"provider"`
		Parameters         map[string]string `json:"parameters"`
		ServiceAccountName string            `json:"serviceAccountName"`
		Volumes            []struct {
			CSI struct {
				Driver           string            `json:"driver"`
				VolumeAttributes map[string]string `json:"volumeAttributes"`
			} `json:"csi"`
		} `json:"volumes"`
	} `json:"spec"`
}

// read returns the class and the pod of an example.
func read(t *testing.T, example string) (class, pod manifest) {
	t.Helper()
	documents := strings.Split(text(t, example+".yaml"), "\n---\n")
	if len(documents) != 2 {
		t.Fatalf("%s.yaml has %d documents, want a class and a pod", example, len(documents))
	}
	for i, into := range []*manifest{&class, &pod} {
		if err := yaml.Unmarshal([]byte(documents[i]), into); err != nil {
			t.Fatal(err)
		}
	}
	return class, pod
}

// command returns the fields that a command of README.md sets.
func command(t *testing.T, prefix string) map[string]string {
	t.Helper()
	lines := strings.ReplaceAll(text(t, "README.md"), "\\\n", " ")
	_, rest, found := strings.Cut(lines, " "+prefix+" ")
	if !found {
		t.Fatalf("README.md has no command %q", prefix)
	}
	rest, _, _ = strings.Cut(rest, "\n")
	fields := map[string]string{}
	for _, field := range regexp.MustCompile(`(\w+)=(\S+)`).FindAllStringSubmatch(rest, -1) {
		fields[field[1]] = field[2]
	}
	return fields
}

// grant returns what the policy allows to a token of a role.
func grant(t *testing.T, role map[string]string) vaulttest.Grant {
	t.Helper()
	allowed := vaulttest.Grant{TTL: duration(t, role["token_ttl"])}
	for _, path := range regexp.MustCompile(`(?m)^path "([^"*]+)\*?" {$`).FindAllStringSubmatch(text(t, role["token_policies"]+".hcl"), -1) {
		allowed.Allow = append(allowed.Allow, path[1])
	}
	return allowed
}

func duration(t *testing.T, text string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(text)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// A world is a server as README.md prepares it.
type world struct {
	*vaulttest.Server
	database *vaulttest.Database
	pki      *vaulttest.PKI
}

func prepare(t *testing.T) *world {
	t.Helper()
	server := vaulttest.New(t, nil)
	w := &world{server, server.Database("database"), server.PKI("pki")}
	role := command(t, "write auth/kubernetes/role/shop")
	w.Kubernetes("kubernetes").Role("shop", vaulttest.Role{
		Namespace: role["bound_service_account_namespaces"], ServiceAccount: role["bound_service_account_names"],
		Audience: role["audience"], Grant: grant(t, role),
	})
	role = command(t, "write auth/jwt/role/shop")
	subject := strings.Split(role["bound_subject"], ":")
	w.JWT("jwt").Role("shop", vaulttest.Role{
		Namespace: subject[2], ServiceAccount: subject[3], Audience: role["bound_audiences"], Grant: grant(t, role),
	})
	for _, name := range []string{"shop/db", "shop/license", "shop/session"} {
		w.put(name, command(t, "kv put -mount=secret "+name))
	}
	made := command(t, "write database/roles/shop")
	w.database.Role("shop", vaulttest.Lifetime{TTL: duration(t, made["default_ttl"]), MaxTTL: duration(t, made["max_ttl"])})
	issued := command(t, "write pki/roles/shop")
	w.pki.Role("shop", vaulttest.PKIRole{MaxTTL: duration(t, issued["max_ttl"]), Domains: []string{issued["allowed_domains"]}})
	return w
}

func (w *world) put(name string, fields map[string]string) {
	data := map[string]any{}
	for key, value := range fields {
		data[key] = value
	}
	w.KV2("secret").Put(name, data)
}

// provider returns the provider that the class of an example names.
func (w *world) provider(t *testing.T, example string) *vault.Provider {
	t.Helper()
	class, _ := read(t, example)
	p, err := vault.New(vault.Product(class.Spec.Provider), &vault.Options{Address: w.URL, CACert: w.CAFile})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// request asks for what the manifests say, on behalf of a service account.
func (w *world) request(t *testing.T, example, account string) *provider.Request {
	t.Helper()
	class, pod := read(t, example)
	audience := class.Spec.Provider
	token := w.ServiceAccountToken(pod.Metadata.Namespace, account, audience, time.Hour)
	return &provider.Request{
		Parameters: class.Spec.Parameters, Mode: 0o644,
		Pod:    provider.Pod{Namespace: pod.Metadata.Namespace, Name: pod.Metadata.Name, UID: "uid", ServiceAccount: account},
		Tokens: provider.Tokens{audience: {Value: secret.New([]byte(token))}},
	}
}

// fetch returns the files of an example by name.
func fetch(t *testing.T, p *vault.Provider, req *provider.Request) (*provider.Bundle, map[string]string) {
	t.Helper()
	bundle, err := p.Fetch(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for _, f := range bundle.Files {
		files[f.Path] = string(f.Data.Reveal())
	}
	return bundle, files
}

func TestTheExamplesGiveTheExpectedFiles(t *testing.T) {
	w := prepare(t)
	var lines strings.Builder
	for _, example := range examples {
		_, pod := read(t, example)
		bundle, _ := fetch(t, w.provider(t, example), w.request(t, example, pod.Spec.ServiceAccountName))
		var files []string
		for _, f := range bundle.Files {
			files = append(files, fmt.Sprintf("%s %s %04o\n", example, f.Path, f.Mode))
		}
		lines.WriteString(strings.Join(slices.Sorted(slices.Values(files)), ""))
	}
	if diff := cmp.Diff(text(t, "expected.txt"), lines.String()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// Static secrets are what README.md stores; a new version reaches what is not
// pinned.
func TestStaticSecretsAreThoseThatWereStored(t *testing.T) {
	w := prepare(t)
	p, req := w.provider(t, "static"), w.request(t, "static", "web")
	key, err := base64.StdEncoding.DecodeString(command(t, "kv put -mount=secret shop/session")["key"])
	if err != nil {
		t.Fatal(err)
	}
	db := command(t, "kv put -mount=secret shop/db")
	want := map[string]string{
		"db/user": db["user"], "db/password": db["password"], "session.key": string(key),
		"license.txt": command(t, "kv put -mount=secret shop/license")["text"],
	}
	bundle, got := fetch(t, p, req)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	w.put("shop/db", map[string]string{"user": db["user"], "password": "another-example-word"})
	w.put("shop/license", map[string]string{"text": "another license"})
	req.Held = provider.Held{Versions: bundle.Versions}
	want["db/password"] = "another-example-word"
	if _, got := fetch(t, p, req); !cmp.Equal(want, got) {
		t.Errorf("after new versions: %s", cmp.Diff(want, got))
	}
}

// A volume has one user of the database, which goes with it.
func TestDatabaseUsersLiveAsLongAsTheirVolumes(t *testing.T) {
	w := prepare(t)
	p, req := w.provider(t, "database"), w.request(t, "database", "web")
	bundle, files := fetch(t, p, req)
	if !w.database.Login(files["username"], files["password"]) {
		t.Error("the database does not take the user")
	}
	req.Held = provider.Held{Versions: bundle.Versions, Lease: bundle.Lease}
	again, _ := fetch(t, p, req)
	if leases := w.Leases("database/creds/shop"); !again.Unchanged || len(leases) != 1 {
		t.Errorf("after a refresh: unchanged is %t, leases %q", again.Unchanged, leases)
	}
	if err := p.Release(t.Context(), again.Lease); err != nil {
		t.Error(err)
	}
	if leases := w.Leases("database/creds/shop"); len(leases) > 0 || w.database.Login(files["username"], files["password"]) {
		t.Errorf("after the volume has gone the user lives on, leases %q", leases)
	}
}

func TestTheCertificateBelongsToItsKey(t *testing.T) {
	w := prepare(t)
	bundle, files := fetch(t, w.provider(t, "pki"), w.request(t, "pki", "web"))
	pair, err := tls.X509KeyPair([]byte(files["tls.crt"]), []byte(files["tls.key"]))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(files["ca.crt"]))
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "web.shop.example"}); err != nil {
		t.Error(err)
	}
	if bundle.Lease.Expires.IsZero() {
		t.Error("the volume does not know that its certificate ends")
	}
}

func TestOthersAreDenied(t *testing.T) {
	w := prepare(t)
	_, said, _ := strings.Cut(text(t, "README.md"), "event that says\n\n    ")
	said, _, _ = strings.Cut(said, "\n")
	said = strings.ReplaceAll(said, "https://vault.vault.svc:8200", w.URL)
	_, err := w.provider(t, "static").Fetch(t.Context(), w.request(t, "static", "default"))
	if provider.Reason(err) != "Denied" || !strings.Contains(err.Error(), said) {
		t.Errorf("error %v, README.md shows %s", err, said)
	}
}

func TestTheManifestsBelongTogether(t *testing.T) {
	for _, example := range examples {
		class, pod := read(t, example)
		csi := pod.Spec.Volumes[0].CSI
		got := []string{class.APIVersion, csi.Driver, class.Metadata.Name, csi.VolumeAttributes["secretProviderClass"], pod.Metadata.Namespace}
		want := []string{"secrets-store.csi.x-k8s.io/v1", "secrets-store.csi.k8s.io", example, class.Metadata.Name, class.Metadata.Namespace}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", example, diff)
		}
	}
}
