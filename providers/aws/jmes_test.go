package aws

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// contentOf returns the files that an object with such parts makes of a secret.
func contentOf(t testing.TB, item, stored string) (map[string]string, error) {
	t.Helper()
	p := newProvider(t, nil)
	q, err := p.parse(ask(map[string]string{"objects": "- {objectName: s, objectType: secretsmanager, " + item + "}"}))
	if err != nil {
		t.Fatal(err)
	}
	value := secret.New([]byte(stored))
	files, err := q.objects[0].content(answer{data: &value})
	content := make(map[string]string)
	for _, f := range files {
		content[f.Path] = string(f.Data.Reveal())
	}
	return content, err
}

func TestPartsOfADocument(t *testing.T) {
	const document = `{"user": "u", "empty": "", "port": 5432, "big": 9007199254740992, "half": 0.5, "on": true, "api-key": "k<&>", "list": ["a", "b"],
		"nested": {"b": [1, {"c": "<d>"}], "a": null}, "many": [{"n": "x", "v": "1"}, {"n": "y", "v": "2"}]}`
	for _, c := range []struct{ name, path, want string }{
		{"text", `user`, "u"},
		{"empty text", `empty`, ""},
		{"a name with a hyphen", `'"api-key"'`, "k<&>"},
		{"a function", `join(',', list)`, "a,b"},
		{"a number as text", `to_string(port)`, "5432"},
		{"a number", `port`, "5432"},
		{"a large number", `big`, "9007199254740992"},
		{"a fraction", `half`, "0.5"},
		{"a boolean", `on`, "true"},
		{"a list", `list`, `["a","b"]`},
		{"a map, whose keys are in order", `nested`, `{"a":null,"b":[1,{"c":"<d>"}]}`},
		{"a filter", `"many[?n=='y'].v | [0]"`, "2"},
		{"the whole", `"@.list[1]"`, "b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := c.path
			if !strings.HasPrefix(path, `'`) && !strings.HasPrefix(path, `"`) {
				path = fmt.Sprintf("%q", path)
			}
			got, err := contentOf(t, "jmesPath: [{objectAlias: part, path: "+path+"}]", document)
			if err != nil || got["part"] != c.want || got["s"] != document {
				t.Errorf("%s = %q and the parent %v, %v; want %q", c.path, got["part"], got["s"] == document, err, c.want)
			}
		})
	}
}

func TestPartsThatAreNotThere(t *testing.T) {
	const canary = "canary-8c1f"
	for _, c := range []struct {
		name, item, stored, want string
		reason                   error
	}{
		{"no such key", "jmesPath: [{objectAlias: a, path: x}]", `{"y": "canary-8c1f"}`, "JMES Path - x for object alias - a does not point to a valid object", provider.ErrNotFound},
		{"null", "jmesPath: [{objectAlias: a, path: x}]", `{"x": null, "y": "canary-8c1f"}`, "JMES Path - x for object alias - a does not point to a valid object", provider.ErrNotFound},
		{"no JSON", "jmesPath: [{objectAlias: a, path: x}]", `canary-8c1f`, "Invalid JSON used with jmesPath in secret: ", provider.ErrInvalid},
		{"JSON and more", "jmesPath: [{objectAlias: a, path: x}]", `{"x": "canary-8c1f"} x`, "Invalid JSON used with jmesPath in secret: ", provider.ErrInvalid},
		{"a function of the wrong type, whose error would quote it", "jmesPath: [{objectAlias: a, path: 'length(x)'}]", `{"x": {"canary-8c1f": 1}, "y": 2}`, "", nil},
		{"a function that does not fit", "jmesPath: [{objectAlias: a, path: 'abs(x)'}]", `{"x": "canary-8c1f"}`, "JMES Path - abs(x) for object alias - a does not fit the content of the secret", provider.ErrInvalid},
		{"no such function", "jmesPath: [{objectAlias: a, path: 'nope(x)'}]", `{"x": "canary-8c1f"}`, "does not fit the content of the secret", provider.ErrInvalid},
		{"a number that would be another one", "jmesPath: [{objectAlias: a, path: x}]", `{"x": 12345678901234567890}`, "store it as a string", provider.ErrInvalid},
		{"the same, deep inside", "jmesPath: [{objectAlias: a, path: x}]", `{"x": [{"y": 12345678901234567890}]}`, "store it as a string", provider.ErrInvalid},
		{"an expression", "jmesPath: [{objectAlias: a, path: '&x'}]", `{"x": "canary-8c1f"}`, "", provider.ErrInvalid},
		{"an average of nothing", "jmesPath: [{objectAlias: a, path: 'avg(x)'}]", `{"x": []}`, "", provider.ErrInvalid},
		{"content that is not base64", "encoding: base64", `canary-8c1f!`, `file "s": content is not base64`, provider.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := contentOf(t, c.item, c.stored)
			if !errors.Is(err, c.reason) || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), canary)) {
				t.Errorf("content = %v, want %v with %q and no content", err, c.reason, c.want)
			}
		})
	}
}

func TestWhatNeedNotBeThere(t *testing.T) {
	got, err := contentOf(t, "jmesPath: [{objectAlias: a, path: x, optional: true}, {objectAlias: b, path: y}]", `{"y": "z"}`)
	if _, there := got["a"]; err != nil || there || got["b"] != "z" {
		t.Errorf("content = %v, %v; want b without a", got, err)
	}
}

func TestStoredTextStandsForBytes(t *testing.T) {
	got, err := contentOf(t, "encoding: base64, jmesPath: []", "AAEC/w==\n")
	if err != nil || got["s"] != "\x00\x01\x02\xff" {
		t.Errorf("content = %q, %v", got, err)
	}
	got, err = contentOf(t, "jmesPath: [{objectAlias: a, path: x, encoding: hex}]", `{"x": "00ff"}`)
	if err != nil || got["a"] != "\x00\xff" {
		t.Errorf("content = %q, %v", got, err)
	}
}

// Whatever path and content are, what comes of them is a file or an error that
// does not show the content.
func FuzzJMESPath(f *testing.F) {
	for _, path := range []string{"a", `"a-b"`, "a[0]", "a[?b=='c'].d | [0]", "join(',', a)", "a[::2]", "{x: a}", "[a, b]", "&a", "@", "sort_by(a, &b)", "max_by(a, &b).c", "not_null(a, b)"} {
		f.Add(path, `{"a": [{"b": "c", "d": 1}], "b": "x"}`)
	}
	f.Fuzz(func(t *testing.T, path, document string) {
		e, err := jmesItem{Path: path, ObjectAlias: "a"}.extract(func(name string) string { return name }, 0o644)
		if err != nil {
			return
		}
		canary := "canary-5b7e"
		parsed, err := parseDocument(secret.New([]byte(strings.ReplaceAll(document, "x", canary))))
		if err != nil {
			return
		}
		if _, err := e.from(parsed); err != nil && strings.Contains(err.Error(), canary) && !strings.Contains(path, canary) {
			t.Errorf("the error shows the content: %v", err)
		}
	})
}
