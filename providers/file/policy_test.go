package file

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keymount/keymount/pkg/provider"
)

const rules = `
rules:
- namespace: shop
  serviceAccounts: [web, worker]
  paths: [db.json, "*.pem", certs/**, keys/*.key]
- namespace: shop
  serviceAccounts: ["*"]
  paths: [public]
- namespace: shop
  serviceAccounts: [admin]
  paths: ["**"]
- namespace: blog
  serviceAccounts: ["*"]
  paths: ["**"]
`

func TestPolicy(t *testing.T) {
	s := newStore(t)
	s.putRoot(t, policyName, rules)
	for _, name := range []string{"db.json", "a.pem", "b.pem.age", "certs/a", "certs/deep/b", "keys/a.key", "keys/deep/a.key", "public", "private", "certsX/a"} {
		s.put(t, name, s.canary())
	}
	p := s.provider(t, Options{RequirePolicy: true})
	for _, test := range []struct {
		account, object string
		want            string // reason
	}{
		{"web", "{path: db.json}", ""},
		{"worker", "{path: db.json}", ""},
		{"web", "{path: a.pem}", ""},
		{"web", "{path: b.pem}", "Denied"}, // see below: not decrypted, but allowed
		{"web", "{path: certs/a}", ""},
		{"web", "{path: certs/deep/b}", ""},
		{"web", "{path: certs/}", ""},
		{"web", "{path: certs/deep/}", ""},
		{"web", "{path: keys/a.key}", ""},
		{"web", "{path: public}", ""},
		{"other", "{path: public}", ""},
		{"", "{path: public}", ""},
		{"admin", "{path: private}", ""},
		{"admin", "{path: keys/}", ""},
		{"web", "{path: keys/}", "Denied"},
		{"web", "{path: keys/deep/a.key}", "Denied"},
		{"web", "{path: private}", "Denied"},
		{"web", "{path: private, optional: true}", "Denied"},
		{"web", "{path: certsX/a}", "Denied"},
		{"web", "{path: ./}", "Denied"},
		{"web", "{path: missing}", "Denied"},
		{"web", "{path: missing/}", "Denied"},
		{"web", "{path: certs/missing}", "NotFound"},
		{"other", "{path: db.json}", "Denied"},
		{"", "{path: db.json}", "Denied"},
		{"web", "{path: public}, {path: private}", "Denied"},
	} {
		req := request("[" + test.object + "]")
		req.Pod.ServiceAccount = test.account
		_, err := p.Fetch(t.Context(), req)
		if got := provider.Reason(err); got != test.want {
			t.Errorf("%q reads %s: %v, want %q", test.account, test.object, err, test.want)
		}
	}

	_, err := p.Fetch(t.Context(), request("[{objectName: x, path: private}]"))
	want := `object "x": service account "web" of namespace "shop" may not read "private"; a rule in ` + filepath.Join(s.root, policyName) + ` could allow it: denied`
	if err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	_, err = p.Fetch(t.Context(), request("[{path: b.pem}]"))
	if err == nil || !strings.Contains(err.Error(), "is encrypted") {
		t.Errorf("error %v, want one of decryption: patterns do not name .age", err)
	}
}

func TestAPolicyThatCannotBeReadAllowsNothing(t *testing.T) {
	const good = "rules: [{namespace: shop, serviceAccounts: [web], paths: [secret]}]"
	for name, text := range map[string]string{
		"broken":                   good + "]",
		"no namespace":             strings.Replace(good, "namespace: shop, ", "", 1),
		"every namespace":          strings.Replace(good, "shop", `"*"`, 1),
		"no service accounts":      strings.Replace(good, "serviceAccounts: [web], ", "", 1),
		"an empty service account": strings.Replace(good, "web", `web, ""`, 1),
		"no paths":                 strings.Replace(good, "secret", "", 1),
		"a typo":                   strings.Replace(good, "paths", "path", 1),
		"a field twice":            good + "\n" + good,
		"a malformed pattern":      strings.Replace(good, "secret", `secret, "["`, 1),
		"stars in the middle":      strings.Replace(good, "secret", `secret, "a/**/b"`, 1),
		"stars without slash":      strings.Replace(good, "secret", `secret, "a**"`, 1),
		"dots":                     strings.Replace(good, "secret", `secret, ../secret`, 1),
		"an absolute path":         strings.Replace(good, "secret", `secret, /secret`, 1),
		"the name of encryption":   strings.Replace(good, "secret", `secret, "*.age"`, 1),
		"a list":                   "[" + good + "]",
		"no rules":                 "rules: []",
		"empty":                    "",
		"two documents":            good + "\n---\n" + good,
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.put(t, "secret", s.canary())
			p := s.provider(t, Options{})
			s.putRoot(t, policyName, text)
			_, err := p.Fetch(t.Context(), request("[{objectName: secret, optional: true}]"))
			s.clean(t, err, provider.ErrDenied)
			if !strings.Contains(err.Error(), filepath.Join(s.root, policyName)) {
				t.Errorf("error %q does not name the policy", err)
			}
			s.putRoot(t, policyName, good)
			fetch(t, p, "[{objectName: secret}]")
		})
	}
}

func TestAPolicyThatIsNoFileAllowsNothing(t *testing.T) {
	for name, make := range map[string]func(file string) error{
		"folder":        func(file string) error { return os.Mkdir(file, 0o755) },
		"dangling link": func(file string) error { return os.Symlink("nothing", file) },
		"link out":      func(file string) error { return os.Symlink("/dev/null", file) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.put(t, "secret", s.canary())
			if err := make(filepath.Join(s.root, policyName)); err != nil {
				t.Fatal(err)
			}
			_, err := s.provider(t, Options{}).Fetch(t.Context(), request("[{objectName: secret}]"))
			s.clean(t, err, provider.ErrDenied)
		})
	}
}

func TestAPolicyCanBeRequired(t *testing.T) {
	s := newStore(t)
	s.put(t, "secret", s.canary())
	fetch(t, s.provider(t, Options{}), "[{objectName: secret}]")
	_, err := s.provider(t, Options{RequirePolicy: true}).Fetch(t.Context(), request("[{objectName: secret}]"))
	s.clean(t, err, provider.ErrDenied)
}
