package driver_test

import (
	"flag"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/driver"
)

func validConfig(t *testing.T) driver.Config {
	c := driver.Defaults()
	c.NodeID, c.ClassDir = "n", t.TempDir()
	return c
}

func TestValidateSaysWhatIsWrongAndWhatToDo(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(c *driver.Config)
		want   string // part of the one problem
	}{
		{"the node has a name", func(c *driver.Config) { c.NodeID = "" }, "--nodeid is missing: give"},
		{"the driver has a name", func(c *driver.Config) { c.DriverName = "" }, "--drivername"},
		{"the driver's name has a limit", func(c *driver.Config) { c.DriverName = strings.Repeat("x", 64) }, "--drivername"},
		{"the endpoint is set", func(c *driver.Config) { c.Endpoint = "" }, "--endpoint is empty: use"},
		{"provider folders are absolute", func(c *driver.Config) { c.ProviderDir = "sockets" }, `"sockets" is not an absolute path`},
		{"more provider folders are absolute", func(c *driver.Config) { c.MoreProviders = "/a, b" }, `"b" is not an absolute path`},
		{"the class folder exists", func(c *driver.Config) { c.ClassDir += "/none" }, "name an existing folder"},
		{"a folder of classes is no cluster", func(c *driver.Config) { c.SyncSecrets = true }, "--sync-secrets needs a cluster"},
		{"without a cluster nobody makes tokens", func(c *driver.Config) { c.MintTokens = true }, "--mint-tokens needs a cluster"},
		{"without a cluster there is no taint", func(c *driver.Config) { c.RemoveStartupTaint = true }, "--remove-startup-taint needs a cluster"},
		{"without a cluster there is no kubeconfig", func(c *driver.Config) { c.Kubeconfig = "k" }, "--kubeconfig needs a cluster"},
		{"kubelet's folder is absolute", func(c *driver.Config) { c.KubeletRoot = "kubelet" }, "--kubelet-root"},
		{"the registration folder is absolute", func(c *driver.Config) { c.RegistrationDir = "registry" }, "--registration-dir"},
		{"kubelet can reach the socket", func(c *driver.Config) { c.RegistrationDir, c.Endpoint = "/r", "tcp://[::1]:1" }, "--kubelet-registration-path"},
		{"the state folder is absolute", func(c *driver.Config) { c.StateDir = "state" }, "--state-dir"},
		{"the interval is not negative", func(c *driver.Config) { c.RotationPeriod = -time.Second }, "--rotation-poll-interval"},
		{"the interval is no busy loop", func(c *driver.Config) { c.RotationPeriod = time.Millisecond }, "at least 1s"},
		{"a provider gets a second", func(c *driver.Config) { c.ProviderTimeout = 0 }, "--provider-timeout"},
		{"a provider does not get longer than kubelet waits", func(c *driver.Config) { c.ProviderTimeout = 2 * time.Minute }, "kubelet gives up"},
		{"the message limit is in bytes", func(c *driver.Config) { c.MaxRecvMsgSize = 4 }, "the unit is bytes"},
		{"a volume has room", func(c *driver.Config) { c.TmpfsSize = 1 }, "at least 64Ki"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := validConfig(t)
			if err := config.Validate(); err != nil {
				t.Fatalf("the valid configuration: %v", err)
			}
			c.change(&config)
			err := config.Validate()
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("Validate = %v, want one problem with %q", err, c.want)
			}
		})
	}
}

func TestValidateTellsAllProblemsAtOnce(t *testing.T) {
	err := (&driver.Config{}).Validate()
	if err == nil {
		t.Fatal("an empty configuration is valid")
	}
	problems := strings.Split(err.Error(), "\n")
	if len(problems) != 7 {
		t.Errorf("%d problems, want 7:\n%v", len(problems), err)
	}
	for _, p := range problems {
		if !strings.HasPrefix(p, "--") {
			t.Errorf("%q does not begin with a flag", p)
		}
	}
}

func TestBytes(t *testing.T) {
	for _, c := range []struct {
		text string
		want driver.Bytes
		back string // as it is printed; "" means refused
	}{
		{"0", 0, "0"},
		{"65536", 64 << 10, "64Ki"},
		{"16Mi", 16 << 20, "16Mi"},
		{"1024Ki", 1 << 20, "1Mi"},
		{"2Gi", 2 << 30, "2Gi"},
		{"1000", 1000, "1000"},
		{"", 0, ""}, {"Mi", 0, ""}, {"-1", 0, ""}, {"16M", 0, ""}, {"16 Mi", 0, ""}, {"1.5Gi", 0, ""},
		{"4294967296", 4 << 30, "4Gi"}, {"9223372036854775807", 1<<63 - 1, "9223372036854775807"},
		{"99999999999Gi", 0, ""}, {"8589934592Gi", 0, ""}, {"16MiMi", 0, ""}, {"+1", 0, ""},
	} {
		t.Run(c.text, func(t *testing.T) {
			var b driver.Bytes
			err := b.Set(c.text)
			switch {
			case c.back == "" && err == nil:
				t.Errorf("Set(%q) = %d, want an error", c.text, b)
			case c.back != "" && (err != nil || b != c.want || b.String() != c.back):
				t.Errorf("Set(%q) = %d (%s), %v; want %d (%s)", c.text, b, &b, err, c.want, c.back)
			}
		})
	}
}

func FuzzBytes(f *testing.F) {
	for _, text := range []string{"0", "16Mi", "2147483647Gi", "-1", "1Ki1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var b, again driver.Bytes
		if b.Set(text) != nil {
			return
		}
		if b < 0 {
			t.Errorf("Set(%q) = %d", text, b)
		}
		if err := again.Set(b.String()); err != nil || again != b {
			t.Errorf("Set(%q) = %d, printed %s, read again %d, %v", text, b, &b, again, err)
		}
	})
}

// These names are in other people's manifests.
func TestFlagNamesStay(t *testing.T) {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	new(driver.Config).AddFlags(fs)
	var got []string
	fs.VisitAll(func(f *flag.Flag) { got = append(got, f.Name) })
	want := []string{
		"additional-provider-volume-paths", "allow-volume-attribute-overrides", "audit-log", "audit-required", "class-dir", "drivername",
		"enable-secret-rotation", "endpoint", "kubeconfig", "kubelet-registration-path", "kubelet-root", "max-call-recv-msg-size",
		"metrics-addr", "metrics-tls", "mint-tokens", "nodeid", "pprof-socket", "provider-timeout", "provider-users", "provider-volume", "registration-dir", "remove-startup-taint",
		"require-providers", "rotation-poll-interval", "send-held-versions", "state-dir", "sync-secrets", "tmpfs-size",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flags (-want +got):\n%s", diff)
	}
}
