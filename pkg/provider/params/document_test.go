package params_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/params"
)

func TestDocumentKeepsScalarsAsTheyAreWritten(t *testing.T) {
	got, err := params.Document([]byte(`
number: 3.10
big: 123456789012345678901234567890
pin: 0123
hex: 0x1F
text: "5432"
answer: no
truth: True
lie: FALSE
nothing: ~
date: 2026-01-02
1: one
list: [a, 1, {b: c}]
base: &base {x: 1}
again: *base
block: |
  line
blob: !!binary aGVsbG8=
`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"number": json.Number("3.10"), "big": json.Number("123456789012345678901234567890"),
		"pin": "0123", "hex": "0x1F", "text": "5432", "answer": "no", "truth": true, "lie": false, "nothing": nil,
		"date": "2026-01-02", "1": "one", "list": []any{"a", json.Number("1"), map[string]any{"b": "c"}},
		"base": map[string]any{"x": json.Number("1")}, "again": map[string]any{"x": json.Number("1")},
		"block": "line\n", "blob": "hello",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if _, err := json.Marshal(got); err != nil {
		t.Errorf("not encodable as JSON: %v", err)
	}
}

func TestDocumentErrorsQuoteNothing(t *testing.T) {
	for name, in := range map[string]string{
		"broken":         "password: [c4n4ry",
		"tab":            "a:\n\tpassword: c4n4ry",
		"key twice":      "password: c4n4ry\npassword: c4n4ry2",
		"two documents":  "a: c4n4ry\n---\nb: c4n4ry",
		"broken second":  "a: c4n4ry\n---\nb: [c4n4ry",
		"map as key":     "{a: c4n4ry}: b",
		"unknown anchor": "password: *c4n4ry",
		"bad tag":        "password: !!int c4n4ry",
		"binary":         "password: !!binary /w==",
		"bad binary":     "password: !!binary c4n4ry!",
		"not UTF-8":      "password: \xffc4n4ry",
		"alias of self":  "a: &c4n4ry [*c4n4ry]",
	} {
		got, err := params.Document([]byte(in))
		if !errors.Is(err, provider.ErrInvalid) || strings.Contains(fmt.Sprint(err), "c4n") {
			t.Errorf("%s: Document() = %v, error %v, want ErrInvalid without content", name, got, err)
		}
	}
}

func TestDocumentBoundsAliases(t *testing.T) {
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 10; i++ {
		bomb += fmt.Sprintf("a%d: &a%d [%s*a%d]\n", i, i, strings.Repeat(fmt.Sprintf("*a%d,", i-1), 9), i-1)
	}
	if _, err := params.Document([]byte(bomb)); !errors.Is(err, provider.ErrInvalid) {
		t.Errorf("error %v, want ErrInvalid", err)
	}
}

func FuzzObjects(f *testing.F) {
	for _, seed := range []string{
		"", "- objectName: a", "array:\n- |\n  objectName: a\n", "- {objectName: a, filePermission: 0640}",
		`[{"jmesPath":[{"path":"x"}],"failoverObject":{"path":"y"},"secretArgs":{"a":[1,true,null]}}]`,
		"- &a b\n- *a", "- - - -", "? [a]\n: b", "- !!binary aGk=", "- 'a: [", "- \"\\xff\"", "- <<: {a: b}", "--- - a\n---\n- b",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := objects(text)
		switch {
		case err != nil && !errors.Is(err, provider.ErrInvalid):
			t.Errorf("error %v does not wrap ErrInvalid", err)
		case err == nil && len(got) == 0:
			t.Error("no error and no objects")
		}
		for _, object := range got {
			if object.Mode > 0o777 {
				t.Errorf("mode %#o", object.Mode)
			}
		}
	})
}

func FuzzDocument(f *testing.F) {
	for _, seed := range []string{"", "a: 1", "- [a, {b: .inf}]", "a: &x 1\nb: *x", "a: 0x1", "<<: {a: 1}\na: 2", "a: 1e3\nb: -0\nc: +1\nd: 1_0", "!!binary aGk="} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := params.Document([]byte(text))
		if err != nil {
			if !errors.Is(err, provider.ErrInvalid) {
				t.Errorf("error %v does not wrap ErrInvalid", err)
			}
			return
		}
		if _, err := json.Marshal(got); err != nil {
			t.Errorf("not encodable as JSON: %v", err)
		}
	})
}
