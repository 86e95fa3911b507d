package vault

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/vault/vaulttest"
)

// fetch fetches, and must succeed.
func (b *backend) fetch(t *testing.T, req *provider.Request) *provider.Bundle {
	t.Helper()
	bundle, err := b.provider.Fetch(t.Context(), req)
	if err != nil {
		t.Fatalf("Fetch: %v", err)
	}
	return bundle
}

// again is the request of a volume that holds the bundle.
func again(req *provider.Request, held *provider.Bundle) *provider.Request {
	next := *req
	next.Held = provider.Held{Versions: held.Versions, Lease: held.Lease}
	return &next
}

// text returns the files of a bundle by name.
func text(b *provider.Bundle) map[string]string {
	files := make(map[string]string)
	for _, f := range b.Files {
		files[f.Path] = string(f.Data.Reveal())
	}
	return files
}

func TestContentOfKeys(t *testing.T) {
	secrets := map[string]any{
		"text": "p<&>\n\"x", "empty": "", "number": 5432, "float": 1.50, "big": uint64(9007199254740993), "yes": true, "none": nil,
		"list": []any{"b", 1}, "map": map[string]any{"z": "<", "a": map[string]any{"deep": "down"}}, "a.b": "dots", "base64": "aGk=", "hex": "6869",
	}
	want := map[string]string{
		"text": "p<&>\n\"x", "empty": "", "number": "5432", "float": "1.5", "big": "9007199254740993", "yes": "true", "none": "null",
		"list": `["b",1]`, "map": `{"a":{"deep":"down"},"z":"\u003c"}`, "map.a": `{"deep":"down"}`, "map.a.deep": "down", "a.b": "dots",
	}
	for name, put := range map[string]func(*backend) (path string){
		"version 2 of the key-value engine": func(b *backend) string { b.KV2("secret").Put("x", secrets); return "secret/data/x" },
		"version 1 of the key-value engine": func(b *backend) string { b.KV1("kv").Put("x", secrets); return "kv/x" },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBackend(t, backendOptions{})
			path := put(b)
			var list strings.Builder
			for _, key := range slices.Sorted(maps.Keys(want)) {
				list.WriteString("- {objectName: " + key + ", secretKey: " + key + ", secretPath: " + path + "}\n")
			}
			list.WriteString("- {objectName: from-base64, secretKey: base64, encoding: base64, secretPath: " + path + "}\n")
			list.WriteString("- {objectName: from-hex, secretKey: hex, encoding: HEX, secretPath: " + path + "}\n")
			files := text(b.fetch(t, b.ask(list.String())))
			expected := maps.Clone(want)
			expected["from-base64"], expected["from-hex"] = "hi", "hi"
			if diff := cmp.Diff(expected, files); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			if reads := b.Count("GET", path); reads != 1 {
				t.Errorf("%d reads of one path, want 1", reads)
			}
		})
	}
}

func TestKeysAreFoundOnTheLevelThatIsMeant(t *testing.T) {
	b := newBackend(t, backendOptions{})
	b.KV1("kv").Put("x", map[string]any{"data": map[string]any{"inner": "i", "same": "inner"}, "same": "outer", "metadata": map[string]any{"version": "1"}})
	b.KV2("secret").Put("x", map[string]any{"data": map[string]any{"inner": "i"}, "metadata": "mine"})
	b.KV2("secret").Put("y", map[string]any{"k": "v"})
	files := text(b.fetch(t, b.ask(`
- {objectName: v1 same, secretPath: kv/x, secretKey: same}
- {objectName: v1 data, secretPath: kv/x, secretKey: data}
- {objectName: v1 inner, secretPath: kv/x, secretKey: inner}
- {objectName: v2 data, secretPath: secret/data/x, secretKey: data}
- {objectName: v2 metadata, secretPath: secret/data/x, secretKey: metadata}
- {objectName: v2 all, secretPath: secret/data/y, secretKey: data}
- {objectName: v2 version, secretPath: secret/data/y, secretKey: metadata.version}
`)))
	want := map[string]string{
		"v1 same": "outer", "v1 data": `{"inner":"i","same":"inner"}`, "v1 inner": "i",
		"v2 data": `{"inner":"i"}`, "v2 metadata": "mine", "v2 all": `{"k":"v"}`, "v2 version": "1",
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestWholeAnswersAreWhatTheClientLibrariesPrint(t *testing.T) {
	const answer = `{"request_id":"r-1","lease_id":"","renewable":false,"lease_duration":2764800,"data":{"b":1.10,"a":"<&>"},"wrap_info":null,"warnings":["w"],"auth":null,"mount_type":"kv"}`
	for product, want := range map[Product]string{
		Vault:   `{"request_id":"r-1","lease_id":"","lease_duration":2764800,"renewable":false,"data":{"a":"\u003c\u0026\u003e","b":1.10},"warnings":["w"],"mount_type":"kv"}`,
		OpenBao: `{"request_id":"r-1","lease_id":"","lease_duration":2764800,"renewable":false,"data":{"a":"\u003c\u0026\u003e","b":1.10},"warnings":["w"]}`,
	} {
		b := newBackend(t, backendOptions{product: product})
		b.KV1("kv")
		b.Respond("kv/x", vaulttest.Raw(200, answer))
		req := b.ask("- {objectName: all, secretPath: kv/x, encoding: base64}")
		first := b.fetch(t, req)
		if got := text(first)["all"]; got != want {
			t.Errorf("%s:\n got %s\nwant %s", product, got, want)
		}
		b.Respond("kv/x", vaulttest.Raw(200, strings.NewReplacer("r-1", "r-2", `["w"]`, "null", "2764800", "2764000").Replace(answer)))
		if second := b.fetch(t, again(req, first)); !second.Unchanged {
			t.Errorf("%s: a new request_id makes a new version", product)
		}
	}
}

// A client that looks into such an answer without a look at it crashes.
func TestAnswersWithNothingInThem(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   error
	}{
		{"no content", 204, "", provider.ErrNotFound},
		{"an empty body", 200, "", provider.ErrNotFound},
		{"null", 200, "null", provider.ErrNotFound},
		{"no data", 200, "{}", provider.ErrNotFound},
		{"data that is null", 200, `{"data":null}`, provider.ErrNotFound},
		{"no JSON", 200, "<html>c4n4ry", provider.ErrUnavailable},
		{"a list", 200, "[]", provider.ErrUnavailable},
		{"data of another shape", 200, `{"data":"c4n4ry"}`, provider.ErrUnavailable},
		{"a huge answer", 200, `{"data":{"k":"` + strings.Repeat("x", maxBody) + `"}}`, provider.ErrInvalid},
		{"a refusal without words", 400, "", provider.ErrInvalid},
		{"a refusal by somebody else", 403, "<html>c4n4ry", provider.ErrDenied},
		{"a redirection to nowhere", 301, "", provider.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t, backendOptions{})
			b.KV1("kv")
			b.Respond("kv/x", vaulttest.Raw(c.status, c.body))
			for _, key := range []string{"", "k"} {
				_, err := b.provider.Fetch(t.Context(), b.ask("- {objectName: a, secretPath: kv/x, secretKey: "+key+"}"))
				if !errors.Is(err, c.want) || strings.Contains(err.Error(), "c4n4ry") {
					t.Errorf("key %q: error %v, want %v without content", key, err, c.want)
				}
			}
		})
	}
}

func TestLoginsWithNothingInTheAnswer(t *testing.T) {
	for name, body := range map[string]string{"no body": "", "null": "null", "no auth": "{}", "auth that is null": `{"auth":null}`, "no token": `{"auth":{"lease_duration":1}}`} {
		b := newBackend(t, backendOptions{})
		b.Respond("auth/kubernetes/login", vaulttest.Raw(200, body))
		_, err := b.provider.Fetch(t.Context(), b.ask("- {objectName: a, secretPath: secret/data/x}"))
		if !errors.Is(err, provider.ErrUnavailable) || !strings.Contains(err.Error(), "failed to login: ") || !strings.Contains(err.Error(), "the answer has no token") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestErrorsNameWhatWasAskedFor(t *testing.T) {
	b := newBackend(t, backendOptions{})
	b.KV2("secret").Put("x", map[string]any{"k": "c4n4ry"})
	b.KV2("secret").Put("gone", map[string]any{"k": "c4n4ry"})
	b.KV2("secret").Delete("gone")
	at := " at " + b.URL
	for _, c := range []struct{ name, object, want string }{
		{"no such path", "secretPath: secret/data/no", `couldn't read secret "a": error requesting secret: GET secret/data/no` + at + `: 404: Not Found: not found`},
		{"no such key", "secretPath: secret/data/x, secretKey: no", `couldn't read secret "a": {secret/data/x}: {key "no" does not exist at the secret path}: no such key, not found`},
		{"a deleted version", "secretPath: secret/data/gone, secretKey: k", `couldn't read secret "a": error requesting secret: GET secret/data/gone` + at + `: 404: version 1 was deleted at `},
		{"data left out", "secretPath: secret/x", `(this is version 2 of the key-value engine: did you mean the secretPath "secret/data/x"?)`},
		{"no such mount", "secretPath: nowhere/x", `couldn't read secret "a": error requesting secret: GET nowhere/x` + at + `: 404: no handler for route "nowhere/x"`},
		{"no such role", "secretPath: database/creds/no", `couldn't read secret "a": error requesting secret: GET database/creds/no` + at + `: 400: unknown role: no: invalid`},
		{"not the encoding", "secretPath: secret/data/x, secretKey: k, encoding: hex", `couldn't read secret "a": key "k" of secret/data/x: content is not hex: invalid`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := b.provider.Fetch(t.Context(), b.ask("- {objectName: a, "+c.object+"}"))
			if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "c4n4ry") {
				t.Errorf("error %v, want one with %s", err, c.want)
			}
		})
	}
}

func TestNamespacesAreApart(t *testing.T) {
	b := newBackend(t, backendOptions{})
	team := b.In("team/a")
	team.KV2("secret").Put("x", map[string]any{"k": "of the team"})
	team.Kubernetes("kubernetes").Role("shop", vaulttest.Role{Namespace: "shop", Audience: "vault"})
	b.KV2("secret").Put("x", map[string]any{"k": "of the root"})
	for namespace, want := range map[string]string{"": "of the root", "team/a": "of the team"} {
		req := b.ask("- {objectName: a, secretPath: secret/data/x, secretKey: k}")
		req.Parameters["vaultNamespace"] = namespace
		if got := text(b.fetch(t, req))["a"]; got != want {
			t.Errorf("namespace %q gives %q, want %q", namespace, got, want)
		}
	}
}

func TestVersionsOfTheKeyValueEngine(t *testing.T) {
	b := newBackend(t, backendOptions{})
	kv := b.KV2("secret")
	kv.Put("x", map[string]any{"k": "one"})
	kv.Put("x", map[string]any{"k": "two"})
	req := b.ask(`
- {objectName: now, secretPath: secret/data/x, secretKey: k}
- {objectName: pinned, secretPath: "secret/data/x?version=1", secretKey: k}
- {objectName: next, secretPath: "secret/data/x?version=3", secretKey: k, optional: true}
- {objectName: missing, secretPath: secret/data/x, secretKey: no, optional: true}
`)
	first := b.fetch(t, req)
	if diff := cmp.Diff(map[string]string{"now": "two", "pinned": "one"}, text(first)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if !strings.HasPrefix(first.Versions["now"], "2-") || !strings.HasPrefix(first.Versions["pinned"], "1-") || first.Versions["next"] != "absent" {
		t.Errorf("versions %v, want those of the engine", first.Versions)
	}
	if !b.fetch(t, again(req, first)).Unchanged {
		t.Error("a poll finds a change where there is none")
	}
	b.restart(t)
	if !b.fetch(t, again(req, first)).Unchanged {
		t.Error("a restart of the provider makes other versions")
	}
	kv.Put("x", map[string]any{"k": "three"})
	second := b.fetch(t, again(req, first))
	if diff := cmp.Diff(map[string]string{"now": "three", "pinned": "one", "next": "three"}, text(second)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if second.Versions["pinned"] != first.Versions["pinned"] {
		t.Errorf("the pinned object has another version: %v", second.Versions)
	}
}

func FuzzAnswers(f *testing.F) {
	for _, seed := range []string{
		`{"data":{"k":"v"}}`, `{"data":{"data":{"k":"v"},"metadata":{"version":2,"created_time":"x","deletion_time":"2030-01-01T00:00:00Z"}}}`,
		`{"lease_id":"a","lease_duration":60,"renewable":true,"data":{"username":"u"}}`, `{"data":{"certificate":"-----BEGIN CERTIFICATE-----\n\n-----END CERTIFICATE-----"}}`,
		`{"data":{"current_version":1,"versions":{"1":{"created_time":"x"}}}}`, `{"auth":{"client_token":"t"}}`, `null`, `[]`, `{"data":{"versions":null}}`,
	} {
		f.Add(seed, "k")
	}
	f.Fuzz(func(t *testing.T, body, key string) {
		r, err := parseResponse(call{}, []byte(body))
		if err != nil {
			return
		}
		reading, err := newRead("PUT", "x", nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = ofMetadata(reading, r)
		_, _ = parseMount(r)
		_, _ = termOf(reading, r, time.Now())
		for _, k := range []kind{unknown, plain, versioned, generated} {
			a := ofData(k, r)
			o := object{name: "a", read: reading, key: key}
			_, failed := o.version(a, "", nil)
			_, err := o.content(a, Vault)
			if provider.Reason(failed) == "Internal" || provider.Reason(err) == "Internal" {
				t.Errorf("errors %v and %v, want sentinels", failed, err)
			}
		}
	})
}
