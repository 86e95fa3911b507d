// Package azure_test runs the examples as they are written, against a store
// that is set up as README.md says.
package azure_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
	"software.sslmate.com/src/go-pkcs12"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/azure"
	"github.com/keymount/keymount/providers/azure/azuretest"
)

// examples are the classes, in the order of expected.txt.
var examples = []string{"secrets", "certificate", "service-principal"}

const audience = "api://AzureADTokenExchange"

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
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec struct {
		Provider           string            `json:"provider"`
		Parameters         map[string]string `json:"parameters"`
		ServiceAccountName string            `json:"serviceAccountName"`
		Volumes            []struct {
			CSI struct {
				VolumeAttributes     map[string]string `json:"volumeAttributes"`
				NodePublishSecretRef struct {
					Name string `json:"name"`
				} `json:"nodePublishSecretRef"`
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

// commands returns the words behind each command of README.md that begins so,
// by the option that they belong to.
func commands(t *testing.T, prefix string) (all []map[string]string) {
	t.Helper()
	for line := range strings.Lines(text(t, "README.md")) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), prefix+" ")
		if !ok {
			continue
		}
		options := make(map[string]string)
		for _, option := range regexp.MustCompile(`--([a-z-]+) (\S+)`).FindAllStringSubmatch(rest, -1) {
			if name, value, ok := strings.Cut(option[2], "="); ok && option[1] == "from-literal" {
				options[name] = value
			} else {
				options[option[1]] = option[2]
			}
		}
		all = append(all, options)
	}
	if len(all) == 0 {
		t.Fatalf("README.md has no command %q", prefix)
	}
	return all
}

// A store is one that README.md has prepared, but for the last of the values.
type store struct {
	*azuretest.Server
	vault  *azuretest.Vault
	latest map[string]string // what README.md writes at its end
}

func prepare(t *testing.T) *store {
	t.Helper()
	s := &store{Server: azuretest.New(t, nil)}
	s.vault = s.Vault(commands(t, "az keyvault create")[0]["name"])
	puts := commands(t, "az keyvault secret set")
	s.latest, puts = puts[len(puts)-1], puts[:len(puts)-1]
	for _, c := range puts {
		s.Vault(c["vault-name"]).PutSecret(c["name"], c["value"])
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "web"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate := commands(t, "az keyvault certificate create")[0]
	s.Vault(certificate["vault-name"]).PutCertificate(certificate["name"], azuretest.Certificate{Chain: [][]byte{der}, Key: key, PFX: true})
	class, _ := read(t, "secrets")
	credential := commands(t, "az identity federated-credential create")[0]
	s.App(class.Spec.Parameters["clientID"], azuretest.App{
		Subjects: []string{credential["subject"]}, Audience: credential["audiences"],
		Secret: commands(t, "kubectl --namespace shop create secret generic shop-principal")[0]["clientsecret"],
	})
	return s
}

// fetch returns the files of an example for the service account. The network is
// the server's proxy, as the environment says it.
func (s *store) fetch(t *testing.T, example, account string) (map[string]provider.File, error) {
	t.Helper()
	class, pod := read(t, example)
	class.Spec.Parameters["tenantID"] = s.Tenant
	p, err := azure.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	req := &provider.Request{
		Parameters: class.Spec.Parameters, Mode: 0o644,
		Pod:    provider.Pod{Namespace: pod.Metadata.Namespace, Name: pod.Metadata.Name, UID: "uid", ServiceAccount: account},
		Tokens: provider.Tokens{audience: {Value: secret.New([]byte(s.ServiceAccountToken(pod.Metadata.Namespace, account, audience, time.Hour)))}},
	}
	if ref := pod.Spec.Volumes[0].CSI.NodePublishSecretRef.Name; ref != "" {
		literals := commands(t, "kubectl --namespace shop create secret generic "+ref)[0]
		req.Credentials = map[string]secret.Value{}
		for _, key := range []string{"clientid", "clientsecret"} {
			req.Credentials[key] = secret.New([]byte(literals[key]))
		}
	}
	bundle, err := p.Fetch(t.Context(), req)
	if err != nil {
		return nil, err
	}
	files := make(map[string]provider.File)
	for _, f := range bundle.Files {
		files[f.Path] = f
	}
	return files, nil
}

// A process asks its environment for proxies and authorities once, so that all
// tests have one store.
func TestTheExamplesDoWhatTheyShow(t *testing.T) {
	s := prepare(t)
	for name, value := range map[string]string{"HTTPS_PROXY": s.ProxyURL, "NO_PROXY": "", "SSL_CERT_FILE": s.CAFile, "AZURE_ENVIRONMENT_FILEPATH": ""} {
		t.Setenv(name, value)
	}
	t.Run("they give the expected files", func(t *testing.T) { giveTheExpectedFiles(t, s) })
	t.Run("new versions reach their files", func(t *testing.T) { newVersionsReachTheirFiles(t, s) })
	t.Run("another account is told", func(t *testing.T) { anotherAccountIsTold(t, s) })
}

func giveTheExpectedFiles(t *testing.T, s *store) {
	t.Helper()
	var lines strings.Builder
	content := make(map[string]string)
	for _, example := range examples {
		_, pod := read(t, example)
		files, err := s.fetch(t, example, pod.Spec.ServiceAccountName)
		if err != nil {
			t.Fatal(err)
		}
		var listed []string
		for path, f := range files {
			listed = append(listed, fmt.Sprintf("%s %s %04o\n", example, path, f.Mode))
			content[path] = string(f.Data.Reveal())
		}
		lines.WriteString(strings.Join(slices.Sorted(slices.Values(listed)), ""))
	}
	if diff := cmp.Diff(text(t, "expected.txt"), lines.String()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	want := map[string]string{"db-password": "example-word", "session.key": "example-session-key", "signing/0": "example-signing-2", "signing/1": "example-signing-1"}
	for path, text := range want {
		if content[path] != text {
			t.Errorf("%s is not what README.md has written", path)
		}
	}
	if content["tls"] != content["tls.key"]+content["tls.crt"] || content["web.pem"] != content["tls.crt"] {
		t.Error("the parts of the certificate are not those of the whole")
	}
	if _, _, err := pkcs12.Decode([]byte(content["web.pfx"]), "example-pfx-word"); err != nil {
		t.Errorf("web.pfx: %v", err)
	}
}

// newVersionsReachTheirFiles expects what README.md writes at its end.
func newVersionsReachTheirFiles(t *testing.T, s *store) {
	t.Helper()
	s.Vault(s.latest["vault-name"]).PutSecret(s.latest["name"], s.latest["value"])
	files, err := s.fetch(t, "secrets", "web")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(files["signing/0"].Data.Reveal()) + " " + string(files["signing/1"].Data.Reveal()); got != "example-signing-3 example-signing-2" {
		t.Error("the files are not the newest version and the one before")
	}
}

func anotherAccountIsTold(t *testing.T, s *store) {
	t.Helper()
	_, said, _ := strings.Cut(text(t, "README.md"), "event that says\n\n    ")
	said, _, _ = strings.Cut(said, "\n")
	if _, err := s.fetch(t, "secrets", "default"); err == nil || !strings.Contains(err.Error(), said) {
		t.Errorf("error %v, README.md shows %s", err, said)
	}
}

func TestTheManifestsBelongTogether(t *testing.T) {
	for _, example := range examples {
		class, pod := read(t, example)
		got := []string{class.Spec.Provider, class.Metadata.Name, pod.Spec.Volumes[0].CSI.VolumeAttributes["secretProviderClass"], pod.Metadata.Namespace}
		if diff := cmp.Diff([]string{"azure", example, example, class.Metadata.Namespace}, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", example, diff)
		}
	}
}
