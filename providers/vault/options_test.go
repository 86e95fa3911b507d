package vault

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/keymount/keymount/pkg/provider"
)

func TestFlagsWinOverTheEnvironment(t *testing.T) {
	everything := map[string]string{
		"VAULT_ADDR": "https://env", "VAULT_NAMESPACE": "env", "VAULT_CACERT": "/env/ca", "VAULT_CAPATH": "/env/cas", "VAULT_CACERT_BYTES": "pem",
		"VAULT_TLS_SERVER_NAME": "env", "VAULT_CLIENT_CERT": "/env/c", "VAULT_CLIENT_KEY": "/env/k",
		"VAULT_SKIP_VERIFY": "1", "VAULT_CLIENT_TIMEOUT": "7", "VAULT_MAX_RETRIES": "5", "VAULT_TOKEN": "c4n4ry",
	}
	fromEnvironment := settings{
		endpoint: endpoint{
			address: "https://env", serverName: "env", skipVerify: true, caBytes: "pem",
			files: files{caCert: "/env/ca", caDirectory: "/env/cas", clientCert: "/env/c", clientKey: "/env/k"},
		},
		namespace: "env", authMount: "kubernetes", timeout: 7 * time.Second, retries: 5, pause: defaultPause,
	}
	for _, c := range []struct {
		name    string
		product Product
		flags   []string
		env     map[string]string
		want    settings
	}{
		{"nothing is said", Vault, nil, nil, settings{endpoint: endpoint{address: "https://127.0.0.1:8200"}, authMount: "kubernetes", timeout: time.Minute, retries: 2, pause: defaultPause}},
		{"all of the environment", Vault, nil, everything, fromEnvironment},
		{"openbao reads the variables of vault", OpenBao, nil, everything, fromEnvironment},
		{"but its own first", OpenBao, nil, map[string]string{"VAULT_ADDR": "https://v", "BAO_ADDR": "https://b", "BAO_CLIENT_TIMEOUT": "1m30s"}, settings{
			endpoint: endpoint{address: "https://b"}, authMount: "kubernetes", timeout: 90 * time.Second, retries: 2, pause: defaultPause,
		}},
		{"vault does not read those of openbao", Vault, nil, map[string]string{"BAO_ADDR": "https://b"}, settings{endpoint: endpoint{address: "https://127.0.0.1:8200"}, authMount: "kubernetes", timeout: time.Minute, retries: 2, pause: defaultPause}},
		{"all flags", Vault, []string{
			"--vault-addr=https://flag", "--vault-mount=m", "--vault-namespace=n", "--vault-tls-ca-cert=/ca", "--vault-tls-ca-directory=/cas",
			"--vault-tls-server-name=s", "--vault-tls-client-cert=/c", "--vault-tls-client-key=/k", "--vault-tls-skip-verify",
		}, map[string]string{"VAULT_ADDR": "https://env", "VAULT_NAMESPACE": "env"}, settings{
			endpoint: endpoint{
				address: "https://flag", serverName: "s", skipVerify: true,
				files: files{caCert: "/ca", caDirectory: "/cas", clientCert: "/c", clientKey: "/k"},
			},
			namespace: "n", authMount: "m", timeout: time.Minute, retries: 2, pause: defaultPause,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var o Options
			fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
			o.AddFlags(fs, c.product)
			if err := fs.Parse(c.flags); err != nil {
				t.Fatal(err)
			}
			o.Environment = func(name string) string { return c.env[name] }
			got, err := o.settings(c.product)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(settings{}, endpoint{}, files{})); err != nil || diff != "" {
				t.Errorf("error %v, -want +got\n%s", err, diff)
			}
		})
	}
}

func TestOddVariablesAreNamedAndNotQuoted(t *testing.T) {
	for _, name := range []string{"VAULT_SKIP_VERIFY", "VAULT_CLIENT_TIMEOUT", "VAULT_MAX_RETRIES"} {
		_, err := New(Vault, &Options{Environment: func(n string) string {
			if n == name {
				return "c4n4ry"
			}
			return ""
		}})
		want := "environment variable " + name + " has a value that cannot be parsed: invalid"
		if err == nil || err.Error() != want || !errors.Is(err, provider.ErrInvalid) {
			t.Errorf("New() error = %v, want %s", err, want)
		}
	}
}
