package azure

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// The SDK takes some of its settings from the environment, which is not that of
// who runs the tests.
func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		name, _, _ := strings.Cut(variable, "=")
		for _, prefix := range []string{"AZURE_", "IDENTITY_", "IMDS_", "MSI_"} {
			if strings.HasPrefix(name, prefix) {
				_ = os.Unsetenv(name)
			}
		}
	}
	os.Exit(m.Run())
}

const anyTenant = "99999999-8888-4777-8666-555555555555"

// anyone is a request that needs no server to be parsed.
func anyone(parameters map[string]string) *provider.Request {
	return &provider.Request{
		Parameters:  parameters,
		Mode:        0o640,
		Pod:         provider.Pod{Namespace: "shop", ServiceAccount: "web"},
		Credentials: map[string]secret.Value{"ClientID": secret.New([]byte("app")), "clientSECRET": secret.New([]byte("s3cret\n"))},
		Tokens:      provider.Tokens{workloadIdentity.audience(): {Value: secret.New([]byte("t1"))}, identityBinding.audience(): {Value: secret.New([]byte("t2"))}},
	}
}

func parse(t testing.TB, opts *Options, parameters map[string]string) (*query, error) {
	t.Helper()
	p, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return p.parse(anyone(parameters))
}

// asked says what a query reads, and what it makes of that.
func asked(q *query) []string {
	var lines []string
	for _, o := range q.objects {
		line := fmt.Sprintf("%v -> %s %04o as %s", o.read, o.paths(), o.mode, o.idOf(0))
		if o.pfx {
			line += " pfx"
		}
		if o.encoding != "" {
			line += " " + string(o.encoding)
		}
		if o.passwordRead != nil {
			line += " with " + o.passwordRead.String()
		}
		if o.read.optional {
			line += " optional"
		}
		lines = append(lines, line)
	}
	return lines
}

func TestWhatClassesAsk(t *testing.T) {
	for _, c := range []struct {
		name    string
		objects string
		want    []string
	}{
		{"an array of strings, as the upstream provider has it", `
array:
  - |
    objectName: db
    objectType: secret
    objectVersion: ""
  - |
    objectName: web
    objectType: cert
    objectVersion: 0123456789abcdef0123456789abcdef
`, []string{"secret/db -> [db] 0640 as secret/db", "cert/web version 0123456789abcdef0123456789abcdef -> [web] 0640 as cert/web"}},
		{"an array of maps", "array: [{objectName: db, objectType: secret}]", []string{"secret/db -> [db] 0640 as secret/db"}},
		{"a list of maps", list("secret", "db") + list("key", "k"), []string{"secret/db -> [db] 0640 as secret/db", "key/k -> [k] 0640 as key/k"}},
		{"a list of strings", "- 'objectName: db\n\n  objectType: secret'", []string{"secret/db -> [db] 0640 as secret/db"}},
		{"white space around values", `[{objectName: " db ", objectType: " secret ", objectAlias: " a ", objectVersion: " v1 "}]`, []string{"secret/db version v1 -> [a] 0640 as secret/db"}},
		{"types in any case", `[{objectName: db, objectType: SECRET}]`, []string{"secret/db -> [db] 0640 as secret/db"}},
		{"the current version by its name", `[{objectName: db, objectType: secret, objectVersion: latest}]`, []string{"secret/db -> [db] 0640 as secret/db"}},
		{"modes, quoted and not", `[{objectName: a, objectType: secret, filePermission: "0600"}, {objectName: b, objectType: secret, filePermission: 0444}, {objectName: c, objectType: secret, filePermission: "400"}]`,
			[]string{"secret/a -> [a] 0600 as secret/a", "secret/b -> [b] 0444 as secret/b", "secret/c -> [c] 0400 as secret/c"}},
		{"a history, quoted and not", `[{objectName: a, objectType: secret, objectVersionHistory: 2}, {objectName: b, objectType: key, objectVersionHistory: "2"}, {objectName: c, objectType: secret, objectVersionHistory: 1}, {objectName: d, objectType: secret, objectVersionHistory: 0}]`,
			[]string{"secret/a -> [a/0 a/1] 0640 as secret/a/0", "key/b -> [b/0 b/1] 0640 as key/b/0", "secret/c -> [c] 0640 as secret/c", "secret/d -> [d] 0640 as secret/d"}},
		{"formats in any case", `[{objectName: a, objectType: secret, objectFormat: PFX, objectEncoding: base64}, {objectName: b, objectType: secret, objectFormat: PEM}]`,
			[]string{"secret/a -> [a] 0640 as secret/a pfx base64", "secret/b -> [b] 0640 as secret/b"}},
		{"separate files", `[{objectName: a, objectType: secret, separateFiles: true}]`, []string{"secret/a -> [a a.crt a.key] 0640 as secret/a"}},
		{"a password of another secret", `[{objectName: a, objectType: secret, objectFormat: pfx, passwordObject: p}]`, []string{"secret/a -> [a] 0640 as secret/a pfx with secret/p"}},
		{"one secret twice is one read, and has two IDs", `[{objectName: a, objectType: secret, optional: true}, {objectName: a, objectType: secret, objectAlias: b, objectEncoding: hex}]`,
			[]string{"secret/a -> [a] 0640 as secret/a", "secret/a -> [b] 0640 as secret/a as b hex"}},
		{"folders", `[{objectName: a, objectType: secret, objectAlias: tls/ca.crt, optional: true}]`, []string{"secret/a -> [tls/ca.crt] 0640 as secret/a optional"}},
		{"two dots within a name", `[{objectName: a, objectType: secret, objectAlias: a..b}]`, []string{"secret/a -> [a..b] 0640 as secret/a"}},
		{"fields that nobody knows", `[{objectName: a, objectType: secret, objectNotAfter: x}]`, []string{"secret/a -> [a] 0640 as secret/a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, err := parse(t, nil, map[string]string{"keyvaultName": " kv1 ", "tenantId": " " + anyTenant + "\n", "clientID": "c", "objects": c.objects, "usePodIdentity": "false", "cloudName": ""})
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "query", asked(q), c.want)
		})
	}
}

func TestClassesThatCannotBeMeantAreRefused(t *testing.T) {
	const db = "[{objectName: db, objectType: secret}]"
	object := func(fields string) map[string]string {
		return map[string]string{"objects": "[{objectName: db, objectType: secret, " + fields + "}]"}
	}
	for _, c := range []struct {
		name       string
		parameters map[string]string
		want       string
	}{
		{"no vault", map[string]string{"keyvaultName": " "}, "keyvaultName is not provided"},
		{"a vault with a short name", map[string]string{"keyvaultName": "kv"}, `Invalid vault name: "kv", must be between 3 and 24 chars`},
		{"a vault with a long name", map[string]string{"keyvaultName": strings.Repeat("k", 25)}, "must be between 3 and 24 chars"},
		{"a vault that is another host", map[string]string{"keyvaultName": "evil.example/"}, "must match [-a-zA-Z0-9]{3,24}"},
		{"no tenant", map[string]string{"tenantID": ""}, "tenantId is not provided"},
		{"a tenant that is a path", map[string]string{"tenantID": "../common"}, "is neither the ID of a tenant nor a domain"},
		{"a client that is none", map[string]string{"clientID": "a b"}, "is no ID of an application"},
		{"a cloud that is not there", map[string]string{"cloudName": "AzureMoonCloud"}, `cloudName "AzureMoonCloud" is not valid, error:`},
		{"a flag that is none", map[string]string{"usePodIdentity": "tru"}, "failed to parse usePodIdentity flag, error:"},
		{"two modes", map[string]string{"useVMManagedIdentity": "true", "useAzureTokenProxy": "true"}, "only one identity mode can be enabled at a time"},
		{"AAD Pod Identity", map[string]string{"usePodIdentity": "true"}, "AAD Pod Identity is no longer there"},
		{"a binding of nobody", map[string]string{"useAzureTokenProxy": "true", "clientID": ""}, "clientID is required for identity binding"},
		{"no objects", map[string]string{"objects": " \n"}, "objects is not set"},
		{"an empty array", map[string]string{"objects": "array:\n"}, "lists nothing"},
		{"an empty list", map[string]string{"objects": "[]"}, "lists nothing"},
		{"objects that are no YAML", map[string]string{"objects": "{"}, "failed to yaml unmarshal objects, error:"},
		{"no name", map[string]string{"objects": "[{objectType: secret}]"}, "objects[0]: objectName"},
		{"a name that is a path", map[string]string{"objects": "[{objectName: ../keys/k, objectType: secret}]"}, "is no name in a vault"},
		{"no type", map[string]string{"objects": "[{objectName: db}]"}, "Invalid vaultObjectTypes. Should be secret, key, or cert"},
		{"a type that is not there", map[string]string{"objects": "[{objectName: db, objectType: password}]"}, "Invalid vaultObjectTypes. Should be secret, key, or cert"},
		{"a version that is a path", object("objectVersion: a/b"), "is no version in a vault"},
		{"a format that is not there", object("objectFormat: jks"), "invalid objectFormat: jks, should be PEM or PFX"},
		{"an encoding that is not there", object("objectEncoding: rot13"), "objectEncoding"},
		{"a key as PFX, in capitals too", map[string]string{"objects": "[{objectName: k, objectType: key, objectFormat: PFX}]"}, "PFX format only supported for objectType: secret"},
		{"an encoded certificate", map[string]string{"objects": "[{objectName: k, objectType: cert, objectEncoding: hex}]"}, "objectEncoding only supported for objectType: secret"},
		{"a certificate without a key in two files", map[string]string{"objects": "[{objectName: k, objectType: cert, separateFiles: true}]"}, "separateFiles only supported for objectType: secret"},
		{"a mode that is none", object("filePermission: rw-r--r--"), "filePermission"},
		{"a mode that is too much", object(`filePermission: "04755"`), "filePermission"},
		{"a history that is none", object("objectVersionHistory: many"), "objectVersionHistory"},
		{"a history that goes forward", object("objectVersionHistory: -1"), "objectVersionHistory is -1"},
		{"a history without an end", object("objectVersionHistory: 101"), "objectVersionHistory is 101: want 0 to 100"},
		{"a password for PEM", object("passwordObject: p"), "passwordObject only supported for objectFormat: pfx"},
		{"a password for a history", object("passwordObject: p, objectFormat: pfx, objectVersionHistory: 3"), "exclude each other"},
		{"a password with a path", object("passwordObject: a/b, objectFormat: pfx"), "is no name in a vault"},
		{"a file outside of the volume", object("objectAlias: ../x"), `file "../x"`},
		{"a file at the root", object("objectAlias: /etc/x"), "/etc/x"},
		{"a file twice", map[string]string{"objects": list("secret", "a", "b") + "- {objectName: c, objectType: key, objectAlias: b}"}, `objects[1] (b) and objects[2] (c) both make the file "b"`},
		{"the file of a part twice", map[string]string{"objects": "- {objectName: a, objectType: secret, separateFiles: true}\n- {objectName: c, objectType: cert, objectAlias: a.crt}"}, `both make the file "a.crt"`},
		{"a file that is a folder", map[string]string{"objects": list("secret", "a") + "- {objectName: a, objectType: secret, objectAlias: a/b}"}, `a/b`},
		{"too many files", map[string]string{"objects": many(1025)}, "the limit is 1024"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := map[string]string{"keyvaultName": testVault, "tenantID": anyTenant, "clientID": "c", "objects": db}
			for name, value := range c.parameters {
				all[name] = value
			}
			_, err := parse(t, nil, all)
			if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("parse = %v, want %q", err, c.want)
			}
		})
	}
}

func many(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprint("n", i)
	}
	return list("secret", names...)
}

func TestWhoReads(t *testing.T) {
	for _, c := range []struct {
		name       string
		parameters map[string]string
		want       kind
		who        string
	}{
		{"a client ID means the workload's identity", map[string]string{"clientID": "c"}, workloadIdentity, "service account shop/web with client ID c (workload identity)"},
		{"also where the other modes are off", map[string]string{"clientID": "c", "usePodIdentity": "false", "useVMManagedIdentity": "0"}, workloadIdentity, "service account shop/web with client ID c (workload identity)"},
		{"or that which is bound to the cluster", map[string]string{"clientID": "c", "useAzureTokenProxy": "true"}, identityBinding, "service account shop/web with client ID c (identity binding)"},
		{"no client ID means a service principal", nil, servicePrincipal, "service principal app"},
		{"the node's identity", map[string]string{"useVMManagedIdentity": "true", "tenantID": ""}, managedIdentity, "the managed identity of the node"},
		{"one of several of the node", map[string]string{"useVMManagedIdentity": "true", "userAssignedIdentityID": "u"}, managedIdentity, "managed identity u"},
		{"which the client ID of a workload is not", map[string]string{"useVMManagedIdentity": "true", "clientID": "c"}, managedIdentity, "the managed identity of the node"},
	} {
		t.Run(c.name, func(t *testing.T) {
			all := map[string]string{"keyvaultName": testVault, "tenantID": anyTenant, "objects": list("secret", "db")}
			for name, value := range c.parameters {
				all[name] = value
			}
			q, err := parse(t, nil, all)
			if err != nil {
				t.Fatal(err)
			}
			expect(t, "kind", q.identity.kind, c.want)
			expect(t, "name", q.identity.String(), c.who)
		})
	}
}

const stackFile = `{
  "name": "AzureStackCloud", "activeDirectoryEndpoint": "https://login.stack.example/", "keyVaultDNSSuffix": "vault.stack.example",
  "keyVaultEndpoint": "https://vault.stack.example/", "resourceIdentifiers": {"keyVault": "https://vault.stack.example/abc/"}
}`

func TestClouds(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	good, other := write("good", "\xef\xbb\xbf"+stackFile), write("other", strings.ReplaceAll(stackFile, "stack.example", "other.example"))
	plain := write("plain", `{"activeDirectoryEndpoint": "https://login.stack.example/", "keyVaultDNSSuffix": "vault.stack.example"}`)
	for _, c := range []struct {
		name, cloud, file string
		opts              Options
		want              cloud
		err               string
	}{
		{name: "the public one", want: known("https://login.microsoftonline.com/", "vault.azure.net")},
		{name: "the US government's, in any case", cloud: "azureUSGOVERNMENTcloud", want: known("https://login.microsoftonline.us/", "vault.usgovcloudapi.net")},
		{name: "China's", cloud: "AzureChinaCloud", want: known("https://login.chinacloudapi.cn/", "vault.azure.cn")},
		{name: "the flag's", opts: Options{Cloud: "AzureChinaCloud"}, want: known("https://login.chinacloudapi.cn/", "vault.azure.cn")},
		{name: "the class's, rather than the flag's", cloud: "AzurePublicCloud", opts: Options{Cloud: "AzureChinaCloud"}, want: known("https://login.microsoftonline.com/", "vault.azure.net")},
		{name: "one that a file describes", cloud: "AzureStackCloud", file: good, want: cloud{"https://login.stack.example/", "vault.stack.example", "https://vault.stack.example/abc", true}},
		{name: "another file", cloud: "azurestackcloud", file: other, opts: Options{EnvironmentFile: good}, want: cloud{"https://login.other.example/", "vault.other.example", "https://vault.other.example/abc", true}},
		{name: "the flag's file", cloud: "AzureStackCloud", opts: Options{EnvironmentFile: plain}, want: cloud{"https://login.stack.example/", "vault.stack.example", "https://vault.stack.example", true}},
		{name: "the environment's file", cloud: "AzureStackCloud", opts: Options{Environment: func(name string) string { return map[string]string{"AZURE_ENVIRONMENT_FILEPATH": good}[name] }},
			want: cloud{"https://login.stack.example/", "vault.stack.example", "https://vault.stack.example/abc", true}},
		{name: "a file where it is not asked for", file: good, want: known("https://login.microsoftonline.com/", "vault.azure.net")},
		{name: "no file", cloud: "AzureStackCloud", err: "needs a file that describes it"},
		{name: "a file that is not there", cloud: "AzureStackCloud", file: filepath.Join(dir, "none"), err: "there is no such file"},
		{name: "a folder", cloud: "AzureStackCloud", file: dir, err: "there is no such file"},
		{name: "a device", cloud: "AzureStackCloud", file: "/dev/zero", err: "there is no such file"},
		{name: "a path that is not absolute", cloud: "AzureStackCloud", file: "good", err: "its path is not absolute"},
		{name: "a large file", cloud: "AzureStackCloud", file: write("large", strings.Repeat(" ", maxEnvironmentFile+1)), err: "it has more than"},
		{name: "a file that is no JSON, of which nothing is shown", cloud: "AzureStackCloud", file: write("secret", "canary"), err: "it is no JSON object"},
		{name: "an authority without TLS", cloud: "AzureStackCloud", file: write("http", strings.Replace(stackFile, "https://login", "http://login", 1)), err: "activeDirectoryEndpoint is no https URL"},
		{name: "a suffix that is a path", cloud: "AzureStackCloud", file: write("path", strings.Replace(stackFile, `"vault.stack.example"`, `"stack.example/x?"`, 1)), err: "keyVaultDNSSuffix is no name of a domain"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := New(&c.opts)
			if err != nil {
				t.Fatal(err)
			}
			got, err := p.settings.cloud(c.cloud, c.file)
			switch {
			case c.err != "":
				if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "canary") {
					t.Errorf("cloud = %v, want %q", err, c.err)
				}
			case err != nil:
				t.Error(err)
			case got != c.want:
				t.Errorf("cloud = %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestFlagsThatCannotBeMeantAreSaidAtTheStart(t *testing.T) {
	for want, opts := range map[string]*Options{
		`cloudName "Moon" is not valid`:           {Cloud: "Moon"},
		"needs a file that describes it":          {Cloud: "AzureStackCloud"},
		"--azure-token-proxy-url is no https URL": {TokenProxy: TokenProxy{URL: "http://proxy"}},
	} {
		if _, err := New(opts); !errors.Is(err, provider.ErrInvalid) || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("New = %v, want %q", err, want)
		}
	}
}

// Whatever a class says, it is refused or makes files that stay in the volume.
func FuzzObjects(f *testing.F) {
	for _, seed := range []string{
		list("secret", "a"), "array:\n  - |\n    objectName: a\n    objectType: cert\n", "[{objectName: a, objectType: secret, objectVersionHistory: 3, separateFiles: true}]",
		"[{objectName: a, objectType: secret, objectFormat: pfx, passwordObject: p}]", "[{objectName: a, objectType: secret, objectAlias: a/b}]", "array:", "{}",
	} {
		f.Add(seed)
	}
	p, err := New(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, objects string) {
		q, err := p.parse(anyone(map[string]string{"keyvaultName": testVault, "tenantID": anyTenant, "clientID": "c", "objects": objects}))
		if err != nil {
			if provider.Reason(err) != "Invalid" {
				t.Errorf("parse = %v", err)
			}
			return
		}
		ids := make(map[string]bool)
		for _, o := range q.objects {
			for number, path := range o.paths() {
				if !fs.ValidPath(path) {
					t.Errorf("it makes the file %q", path)
				}
				if number < o.history && ids[o.idOf(number)] {
					t.Errorf("two objects have the ID %q", o.idOf(number))
				}
				ids[o.idOf(number)] = true
			}
		}
	})
}
