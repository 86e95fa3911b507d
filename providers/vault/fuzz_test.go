package vault

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/keymount/keymount/pkg/provider"
)

// FuzzTerm gives arbitrary answers at an arbitrary time of the server's: what
// is good for a while is so from now on, and is renewed before it ends; and a
// lifetime is never one that wrapped around.
func FuzzTerm(f *testing.F) {
	for _, seed := range []string{
		`{"lease_id":"a","lease_duration":60,"renewable":true}`, `{"lease_id":"a","lease_duration":0}`, `{"lease_id":"a","lease_duration":-1}`, `{"lease_id":"a","lease_duration":9223372036854775807}`,
		`{"lease_id":"a","lease_duration":9300000000}`, `{"auth":{"client_token":"t","lease_duration":18446744074}}`, `{"data":{"signed_key":"ssh-rsa x"}}`, `{"data":{"certificate":"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----"}}`,
	} {
		f.Add("PUT", seed)
		f.Add("GET", seed)
	}
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, method, body string) {
		response, err := parseResponse(call{}, []byte(body))
		if err != nil {
			if provider.Reason(err) != "Unavailable" {
				t.Errorf("the error is %v", err)
			}
			return
		}
		if response.lease < 0 || response.auth != nil && response.auth.lifetime < 0 {
			t.Errorf("it lives for %v, %+v", response.lease, response.auth)
		}
		made, ok := termOf(&read{method: method, digest: "d"}, response, now)
		if ok && (made.Lifetime <= 0 || !made.expires.After(now) || made.due().Before(now) || !made.due().Before(made.expires)) {
			t.Errorf("from %v it lives for %d s until %v and is renewed at %v", now, made.Lifetime, made.expires, made.due())
		}
	})
}

// FuzzMount gives arbitrary answers to the question where a path is mounted: a
// read stays below the mount that is found, and its metadata too.
func FuzzMount(f *testing.F) {
	for _, seed := range []string{
		`{"data":{"path":"secret/","type":"kv","options":{"version":"2"}}}`, `{"data":{"path":"/","type":"kv","options":null}}`, `{"data":{"path":"secret/","type":"kv","options":{"version":2}}}`,
		`{"data":{"path":"//","type":"kv","options":[]}}`, `{"data":{"path":"secret","type":"database"}}`, `{"data":null}`, `null`, ``,
	} {
		f.Add(seed, "secret/data/a/b")
		f.Add(seed, "secret/a")
	}
	f.Fuzz(func(t *testing.T, body, path string) {
		response, err := parseResponse(call{}, []byte(body))
		if err != nil {
			return
		}
		m, ok := parseMount(response)
		if !ok {
			if m != (mount{}) {
				t.Errorf("no mount is %+v", m)
			}
			return
		}
		r := &read{method: "GET", path: path}
		if to, ok := m.metadata(r); ok && (!strings.HasPrefix(path, m.path+"data/") || strings.TrimPrefix(to, m.path+"metadata/") != strings.TrimPrefix(path, m.path+"data/")) {
			t.Errorf("the metadata of %q are at %q, in the mount %+v", path, to, m)
		}
		if m.misses(r) && !strings.HasPrefix(path, m.path) {
			t.Errorf("%q misses something in the mount %+v", path, m)
		}
	})
}

// FuzzRefusal gives arbitrary answers of a server that refuses: the error is one
// line that can be shown, has a reason and does not grow.
func FuzzRefusal(f *testing.F) {
	for _, body := range []string{
		"", "null", "<html>", `{"errors":["1 error occurred:\n\t* permission denied\n\n"]}`, `{"errors":["\u001b[31m\u0000\u2028","é"]}`, `{"warnings":["w"],"errors":null}`,
		`{"data":{"metadata":{"version":2,"deletion_time":"2030-01-01T00:00:00Z"}}}`, `{"errors":["Upgrading from non-versioned"]}`, `{"errors":["` + strings.Repeat("é", maxError) + `"]}`,
	} {
		for _, status := range []int{400, 403, 404, 412, 429, 500, 999} {
			f.Add(status, body)
		}
	}
	f.Fuzz(func(t *testing.T, status int, body string) {
		err := refused(call{method: "GET", path: "x"}, "https://vault", status, []byte(body))
		text := err.Error()
		if provider.Reason(err) == "Internal" || len(text) > maxError+200 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("the error is %q", text)
		}
	})
}

// FuzzEnvironment gives arbitrary text as what the environment says of times and
// numbers: it is refused without being shown, or it is what it says.
func FuzzEnvironment(f *testing.F) {
	for _, text := range []string{"", "60", "60s", "0", "-1", "9223372036854775807", "10000000000", "1h1m", "1e3", "canary-5b7e", "2562048h"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, name := range []string{"CLIENT_TIMEOUT", "MAX_RETRIES", "SKIP_VERIFY"} {
			o := &Options{Environment: func(asked string) string {
				if asked == "VAULT_"+name {
					return text
				}
				return ""
			}}
			s, err := o.settings(Vault)
			switch {
			case err != nil && err.Error() != "environment variable VAULT_"+name+" has a value that cannot be parsed: invalid":
				t.Errorf("the error is %v", err)
			case err == nil && (s.timeout < 0 || s.retries < 0):
				t.Errorf("%s %q: timeout %v, %d retries", name, text, s.timeout, s.retries)
			}
		}
		var seconds int64
		if _, err := fmt.Sscanf(text, "%d", &seconds); err == nil && fmt.Sprint(seconds) == text {
			if got, err := parseSeconds(text); err == nil && int64(got/time.Second) != seconds {
				t.Errorf("%s seconds are %v", text, got)
			}
		}
	})
}
