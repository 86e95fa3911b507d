package class_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keymount/keymount/pkg/class"
)

// spec is the manifest up to the end of its spec's provider.
const spec = "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: app, namespace: shop}\nspec:\n  provider: file\n"

// lists is a manifest of Lists in Lists.
func lists(depth int) string {
	return strings.Repeat(`{"kind":"List","items":[`, depth) + `{"kind":"SecretProviderClass"}` + strings.Repeat("]}", depth)
}

// manyLists is a manifest in which aliases make many items of few.
func manyLists() string {
	text := "kind: List\na: &a {kind: List, items: [{kind: SecretProviderClass}, {kind: SecretProviderClass}]}\n"
	for c := 'b'; c <= 'k'; c++ {
		text += fmt.Sprintf("%c: &%c {kind: List, items: [%s]}\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c, ", c-1), 8), ", "))
	}
	return text + "items: [*k]\n"
}

// Whoever may write a class can spoil that one, and no other.
func TestAHostileClassIsRefused(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		text string
		want string // in the error
	}{
		"a parameter of 1 MiB":             {spec + "  parameters: {a: " + strings.Repeat("x", mib-600) + ", b: " + strings.Repeat("y", 200) + "}\n", ""},
		"a manifest of more than 1 MiB":    {spec + "  parameters: {a: " + strings.Repeat("x", mib) + "}\n", "more than 1048576 bytes"},
		"many bytes by aliases":            {bomb(), "at most 1048576 are allowed"},
		"a billion values by aliases":      {spec + "  parameters:\n" + indent(laughs()), "it is not valid YAML"},
		"many levels of YAML":              {spec + "  parameters: " + strings.Repeat("[", mib-300), "it is not valid YAML"},
		"many levels of maps":              {spec + "  parameters: " + strings.Repeat("{a: ", 200_000), "it is not valid YAML"},
		"many levels of JSON":              {strings.Repeat("[", mib-1), "it is not valid YAML"},
		"ten thousand objects":             {spec + "  secretObjects:\n" + strings.Repeat("  - {secretName: a, type: Opaque, data: [{objectName: a, key: b}]}\n", 10_000), ""},
		"ten thousand parameters":          {spec + "  parameters:\n" + parameters(10_000), ""},
		"Lists in Lists":                   {lists(3000), "it is a List of more than 8 levels"},
		"many items by aliases":            {manyLists(), "it is not valid YAML"},
		"a name with control characters":   {strings.Replace(spec, "name: app", `name: "a\u0000\u001b[2Jb"`, 1), "metadata.name is missing or not a name"},
		"a name that is a path":            {strings.Replace(spec, "name: app", `name: "../app"`, 1), "metadata.name is missing or not a name"},
		"a namespace that is a path":       {strings.Replace(spec, "shop", `"../shop"`, 1), "metadata.namespace of"},
		"a provider that is a path":        {strings.Replace(spec, "provider: file", `provider: "../../run/x"`, 1), "spec.provider is missing or not the name"},
		"a field with control characters":  {spec + "  \"\\x1b[2J\\n\": x\n", "is not a field"},
		"a structure of an odd name":       {spec + "  parameters: {\"\\x1b[2J\\n\": [x]}\n", "is a structure"},
		"a field of a long name":           {spec + "  " + strings.Repeat("f", 1000) + ": x\n", "is not a field"},
		"a parameter that is no text":      {spec + "  parameters: {? " + strings.Repeat("p", 900) + "\n  : 7}\n", "is not text: quote it"},
		"a parameter that is another type": {spec + "  parameters: {a: !!binary x}\n", "it is not valid YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "hostile.yaml"), c.text)
			write(t, filepath.Join(dir, "good.yaml"), replace("app", "good"))
			d := open(t, dir, nil)
			_, err := d.Class(t.Context(), shopApp)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("Class = %.500v, want none", err)
			case c.want != "" && (!errors.Is(err, class.ErrInvalid) || !strings.Contains(err.Error(), c.want)):
				t.Errorf("Class = %.500v, want ErrInvalid with %q", err, c.want)
			}
			if err != nil && (len(err.Error()) > 2000+len(dir) || strings.ContainsAny(err.Error(), "\x00\x1b\r\n")) {
				t.Errorf("an error of %d bytes, or with control characters: %.300q", len(err.Error()), err)
			}
			if got := find(t, d, class.Name{Namespace: "shop", Name: "good"}); got != "file" {
				t.Errorf("the class beside it: %.300s", got)
			}
		})
	}
}

func indent(text string) string {
	return "    " + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n    ") + "\n"
}

// laughs are aliases that stand for a billion values.
func laughs() string {
	text := "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
	for c := 'b'; c <= 'i'; c++ {
		text += fmt.Sprintf("%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c, ", c-1), 10), ", "))
	}
	return text
}

func parameters(n int) string {
	var text strings.Builder
	for i := range n {
		fmt.Fprintf(&text, "    p%d: \"\\0\\e\"\n", i)
	}
	return text.String()
}
