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
  paths: [db.json, "*.pem", certs/**, keys/*.key, "team-*/**"]
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
	for _, name := range []string{"db.json", "a.pem", "b.pem.age", "certs/a", "certs/deep/b", "keys/a.key", "keys/deep/a.key", "public", "private", "certsX/a", "team-a/x/y"} {
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
		{"web", "{path: team-a/x/y}", ""},
		{"web", "{path: team-a/}", ""},
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

func TestAPolicyThatWasThereIsMissed(t *testing.T) {
	const objects, allow = "[{objectName: secret}]", "rules: [{namespace: shop, serviceAccounts: [web], paths: [secret]}]"
	for name, see := range map[string]func(t *testing.T, s *store) *Provider{
		"when the provider starts": func(t *testing.T, s *store) *Provider {
			s.putRoot(t, policyName, allow)
			return s.provider(t, Options{})
		},
		"in a fetch": func(t *testing.T, s *store) *Provider {
			p := s.provider(t, Options{})
			fetch(t, p, objects) // as long as there was none
			s.putRoot(t, policyName, allow)
			fetch(t, p, objects)
			return p
		},
		"although it was malformed": func(t *testing.T, s *store) *Provider {
			p := s.provider(t, Options{})
			s.putRoot(t, policyName, "")
			if _, err := p.Fetch(t.Context(), request(objects)); err == nil {
				t.Fatal("a malformed policy allows")
			}
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.put(t, "secret", s.canary())
			p := see(t, s)
			if err := os.Remove(filepath.Join(s.root, policyName)); err != nil {
				t.Fatal(err)
			}
			_, err := p.Fetch(t.Context(), request(objects))
			s.clean(t, err, provider.ErrDenied)
			want := "the access policy " + filepath.Join(s.root, policyName) + " is gone, so nothing is allowed: put it back, or restart the provider to go on without one: denied"
			if err.Error() != want {
				t.Errorf("error %q, want %q", err, want)
			}
			s.putRoot(t, policyName, allow)
			fetch(t, p, objects)
			if err := os.Remove(filepath.Join(s.root, policyName)); err != nil {
				t.Fatal(err)
			}
			fetch(t, s.provider(t, Options{}), objects) // a provider that never saw it
		})
	}
}

func TestAPatternMatchesElementByElement(t *testing.T) {
	for _, test := range []struct {
		pattern   string
		yes, no   []string // paths of files; of folders with a slash at the end
		malformed bool
	}{
		{pattern: "**", yes: []string{"a", "a/b", "a/", "./"}},
		{pattern: "a", yes: []string{"a"}, no: []string{"b", "a/b", "a/", "./"}},
		{pattern: "*", yes: []string{"a", "*"}, no: []string{"a/b", "a/", "./"}},
		{pattern: "a/*", yes: []string{"a/b"}, no: []string{"a", "a/b/c", "a/", "a/b/"}},
		{pattern: "a/**", yes: []string{"a/b", "a/b/c", "a/", "a/b/"}, no: []string{"a", "aa/b", "b/a/b", "./"}},
		{pattern: "team-*/**", yes: []string{"team-a/x", "team-a/x/y", "team-/x", "team-a/", "team-b/x/"}, no: []string{"team-a", "team/x", "x/team-a/y", "team/", "./"}},
		{pattern: "*/**", yes: []string{"a/b", "a/b/c", "a/"}, no: []string{"a", "./"}},
		{pattern: "*/*/**", yes: []string{"a/b/c", "a/b/"}, no: []string{"a/b", "a/", "./"}},
		{pattern: "a/?/c", yes: []string{"a/b/c"}, no: []string{"a//c", "a/bb/c", "a/c"}},
		{pattern: "a[^x]b", yes: []string{"a-b"}, no: []string{"axb", "a/b"}},
		{pattern: "a[.-0]b", yes: []string{"a.b", "a0b"}, no: []string{"a/b"}},
		{pattern: `a\*`, yes: []string{"a*"}, no: []string{"ab"}},
		{pattern: `[*][*]`, yes: []string{"**"}, no: []string{"./", "a/"}},
		{pattern: "a[/]b", malformed: true},
		{pattern: `a\/b`, malformed: true},
		{pattern: "[/**", malformed: true},
		{pattern: "a/[/b", malformed: true},
		{pattern: "**/a", malformed: true},
		{pattern: "/**", malformed: true},
		{pattern: strings.Repeat("a/", 32) + "a", malformed: true},
	} {
		if err := checkPattern(test.pattern); (err != nil) != test.malformed {
			t.Errorf("checkPattern(%q) = %v, want an error: %v", test.pattern, err, test.malformed)
		}
		for want, paths := range map[bool][]string{true: test.yes, false: test.no} {
			for _, name := range paths {
				var o object
				o.path, o.folder = strings.CutSuffix(name, "/")
				if got := o.matches(test.pattern); got != want {
					t.Errorf("the pattern %q covers %q: %v, want %v", test.pattern, name, got, want)
				}
			}
		}
	}
}
