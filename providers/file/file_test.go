package file

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const database = `{
  "user": "shop", "empty": "", "port": 5432, "rate": 1.10, "big": 123456789012345678901234567890, "on": true, "none": null,
  "a.b": "literal", "a": {"b": "nested", "c": {"d": "deep"}, "html": "<&>"}, "list": [1, 2.50, "x"], "unicode": "\u00e4\n", "": "nameless"
}`

const settings = `
user: shop
port: 5432
rate: 1.10
pin: 0640
answer: no
on: True
none: ~
text: "5432"
block: |
  two
  lines
a: {b: nested, n: 1.50, s: "<&>", l: [x, 0x1F]}
`

const dotenv = "# comment\nUSER=shop\nexport QUOTED=\"a b\\nc\"\nSINGLE='a # b'\nDOLLAR=pa$WORD${X}$$\nESCAPED=\"\\$HOME\"\nEMPTY=\nTAIL=x # comment\n"

// bytesOnly is neither text nor without a newline at its end.
const bytesOnly = "\x00\xff\xfe\n\n"

func one(name, data string) map[string]got { return map[string]got{name: {0o640, data}} }

// fetches are requests to the store of TestFetchTakesWhatObjectsSay.
var fetches = []struct {
	name, objects string
	want          map[string]got
}{
	{"the exact bytes of a file", "[{objectName: x, path: binary}]", one("x", bytesOnly)},
	{"an empty file", "[{objectName: empty}]", one("empty", "")},
	{"path defaults to the name", "[{objectName: binary}]", one("binary", bytesOnly)},
	{"the name defaults to the last element of the path", "[{path: certs/a.pem}]", one("a.pem", "A")},
	{"the name defaults to the key", "[{path: db.json, key: user}]", one("user", "shop")},
	{"the name may have folders", "[{objectName: x/y/z, path: binary}]", one("x/y/z", bytesOnly)},
	{"the mode of the object", `[{objectName: empty, filePermission: "0400"}]`, map[string]got{"empty": {0o400, ""}}},
	{"JSON text", "[{path: db.json, key: user}]", one("user", "shop")},
	{"JSON empty text", "[{path: db.json, key: empty}]", one("empty", "")},
	{"JSON escapes", "[{path: db.json, key: unicode}]", one("unicode", "ä\n")},
	{"JSON integer", "[{path: db.json, key: port}]", one("port", "5432")},
	{"JSON number as it is written", "[{path: db.json, key: rate}]", one("rate", "1.10")},
	{"JSON big number", "[{path: db.json, key: big}]", one("big", "123456789012345678901234567890")},
	{"JSON boolean", "[{path: db.json, key: on}]", one("on", "true")},
	{"JSON null", "[{path: db.json, key: none}]", one("none", "null")},
	{"JSON list", "[{path: db.json, key: list}]", one("list", `[1,2.50,"x"]`)},
	{"JSON map", "[{path: db.json, key: a}]", one("a", `{"b":"nested","c":{"d":"deep"},"html":"<&>"}`)},
	{"a key with a dot comes before a path", "[{path: db.json, key: a.b}]", one("a.b", "literal")},
	{"a path of keys", "[{path: db.json, key: a.c.d}]", one("a.c.d", "deep")},
	{"YAML text", "[{path: settings.yaml, key: user}]", one("user", "shop")},
	{"YAML number as it is written", "[{path: settings.yaml, key: rate}]", one("rate", "1.10")},
	{"YAML octal as it is written", "[{path: settings.yaml, key: pin}]", one("pin", "0640")},
	{"YAML no is text", "[{path: settings.yaml, key: answer}]", one("answer", "no")},
	{"YAML boolean", "[{path: settings.yaml, key: on}]", one("on", "true")},
	{"YAML null", "[{path: settings.yaml, key: none}]", one("none", "null")},
	{"YAML quoted number", "[{path: settings.yaml, key: text}]", one("text", "5432")},
	{"YAML block", "[{path: settings.yaml, key: block}]", one("block", "two\nlines\n")},
	{"YAML map", "[{path: settings.yaml, key: a}]", one("a", `{"b":"nested","l":["x","0x1F"],"n":1.50,"s":"<&>"}`)},
	{"a path of YAML keys", "[{path: settings.yaml, key: a.b}]", one("a.b", "nested")},
	{".yml", "[{path: settings.yml, key: k}]", one("k", "v")},
	{"dotenv", "[{path: .env, key: USER}]", one("USER", "shop")},
	{"dotenv double quotes", "[{path: .env, key: QUOTED}]", one("QUOTED", "a b\nc")},
	{"dotenv single quotes", "[{path: .env, key: SINGLE}]", one("SINGLE", "a # b")},
	{"dotenv keeps dollars", "[{path: .env, key: DOLLAR}]", one("DOLLAR", "pa$WORD${X}$$")},
	{"dotenv escaped dollar", "[{path: .env, key: ESCAPED}]", one("ESCAPED", "$HOME")},
	{"dotenv empty", "[{path: .env, key: EMPTY}]", one("EMPTY", "")},
	{"dotenv comment", "[{path: .env, key: TAIL}]", one("TAIL", "x")},
	{"name.env", "[{path: prod.env, key: K}]", one("K", "v")},
	{".env.name", "[{path: .env.local, key: K}]", one("K", "v")},
	{"base64 of a file", "[{objectName: x, path: base64, encoding: Base64}]", one("x", bytesOnly)},
	{"hex of a key", "[{objectName: x, path: hex.json, key: k, encoding: hex}]", one("x", bytesOnly)},
	{"a folder", "[{path: certs/}]", map[string]got{"a.pem": {0o640, "A"}, "deep/b.pem": {0o640, "B"}}},
	{"a folder with a name and mode", "[{objectName: tls, path: certs/, filePermission: 0400}]",
		map[string]got{"tls/a.pem": {0o400, "A"}, "tls/deep/b.pem": {0o400, "B"}}},
	{"several objects of one file", "[{path: db.json, key: user}, {path: db.json, key: port}, {objectName: all, path: certs/a.pem}]",
		map[string]got{"user": {0o640, "shop"}, "port": {0o640, "5432"}, "all": {0o640, "A"}}},
	{"a file twice under two names", "[{objectName: x, path: empty}, {objectName: y, path: empty}]", map[string]got{"x": {0o640, ""}, "y": {0o640, ""}}},
	{"optional and there", "[{objectName: empty, optional: true}]", one("empty", "")},
	{"optional files, keys and folders that are not there", "[{objectName: no, optional: true}, {path: db.json, key: none2, optional: true}, {path: no/, optional: true}, {path: empty/no/, optional: true}, {objectName: empty}]", one("empty", "")},
}

func TestFetchTakesWhatObjectsSay(t *testing.T) {
	s := newStore(t)
	s.put(t, "db.json", database)
	s.put(t, "settings.yaml", settings)
	s.put(t, "settings.yml", "k: v")
	s.put(t, ".env", dotenv)
	s.put(t, "prod.env", "K=v")
	s.put(t, ".env.local", "K=v")
	s.put(t, "binary", bytesOnly)
	s.put(t, "empty", "")
	s.put(t, "base64", "AP/+\nCgo\n")
	s.put(t, "hex.json", `{"k": "00FFfe0a0a"}`)
	s.put(t, "certs/a.pem", "A")
	s.put(t, "certs/deep/b.pem", "B")
	for _, test := range fetches {
		t.Run(test.name, func(t *testing.T) {
			bundle := fetch(t, s.provider(t, Options{}), test.objects)
			if diff := cmp.Diff(test.want, files(bundle)); diff != "" || bundle.Unchanged {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestFetchLeavesTheRequestAlone(t *testing.T) {
	s := newStore(t)
	s.put(t, "secret", s.canary())
	req := request("[{objectName: secret}]")
	req.Held.Versions = provider.Versions{"shop/secret": "old"}
	if _, err := s.provider(t, Options{}).Fetch(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	want := request("[{objectName: secret}]")
	want.Held.Versions = provider.Versions{"shop/secret": "old"}
	if diff := cmp.Diff(want, req, cmp.Comparer(secret.Value.Equal)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestFetchHonoursCancellation(t *testing.T) {
	s := newStore(t)
	s.put(t, "secret", s.canary())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.provider(t, Options{}).Fetch(ctx, request("[{objectName: secret}]"))
	s.clean(t, err, provider.ErrUnavailable)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v does not wrap the cause", err)
	}
}

func TestAVolumeIsBounded(t *testing.T) {
	s := newStore(t)
	for i := range 17 {
		s.put(t, "all/"+string(rune('a'+i)), string(bytes.Repeat([]byte("x"), 100)))
	}
	_, err := s.provider(t, Options{MaxFileSize: 100}).Fetch(t.Context(), request("[{path: all/}]"))
	s.clean(t, err, provider.ErrInvalid)
	if want := "the volume is larger than 1600 bytes"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}
}

func TestNewRefusesAStoreThatIsNone(t *testing.T) {
	s := newStore(t)
	s.putRoot(t, "regular", "")
	for _, root := range []string{"regular", "missing"} {
		_, err := New(&Options{Root: filepath.Join(s.root, root)})
		s.clean(t, err, provider.ErrInvalid)
	}
}

func FuzzFetch(f *testing.F) {
	s := newStore(f)
	s.put(f, "db.json", `{"a": {"b": "value"}}`)
	s.put(f, "certs/x", "value")
	s.putRoot(f, "other/secret", "outside")
	p := s.provider(f, Options{})
	for _, seed := range []string{
		"[{objectName: db.json}]", "[{path: db.json, key: a.b}]", "[{path: certs/}]", "[{path: ./}]", "[{path: ../other/secret}]",
		"array:\n- |\n  path: db.json\n  key: a\n", "[{path: certs/x, encoding: hex, filePermission: 0400, optional: true}]", "[{path: certs//x}]",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, objects string) {
		bundle, err := p.Fetch(t.Context(), request(objects))
		if err != nil {
			if provider.Reason(err) == "Internal" {
				t.Errorf("error %v wraps no sentinel", err)
			}
			return
		}
		for _, file := range bundle.Files {
			if checkName(file.Path) != nil || file.Mode == 0 || file.Mode > 0o777 || string(file.Data.Reveal()) == "outside" {
				t.Errorf("file %q of mode %v", file.Path, file.Mode)
			}
		}
	})
}
