package kube

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keymount/keymount/pkg/class"
)

// FuzzClass gives arbitrary classes: one is the same whether it comes from the
// API server or from a file, or it is refused by both.
func FuzzClass(f *testing.F) {
	f.Add("file", "objects", "- objectName: a")
	f.Add("", "", "")
	f.Add("a b", "rotationInterval", "<&>\u2028\x00")
	f.Add("vault", "\xff", "\xff")
	f.Fuzz(func(t *testing.T, provider, name, value string) {
		if !utf8.ValidString(name) || !utf8.ValidString(value) {
			return // which JSON, and so the API server, cannot carry
		}
		object := &SecretProviderClass{Spec: SecretProviderClassSpec{Provider: provider, Parameters: map[string]string{name: value}}}
		object.APIVersion, object.Kind, object.Namespace, object.Name = groupVersion.String(), "SecretProviderClass", "shop", "app"
		text, err := json.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		fromFile, errFile := class.Parse(text)
		fromServer, errServer := classOf(object)
		switch {
		case errServer != nil && (!errors.Is(errServer, class.ErrInvalid) || errFile == nil):
			t.Errorf("the API server's is refused with %v, that of the file with %v", errServer, errFile)
		case errServer != nil:
		case errFile != nil || len(fromFile) != 1:
			t.Errorf("the class of the file is refused: %v", errFile)
		default:
			if diff := cmp.Diff(fromFile[0], fromServer, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("from a file it is another class (-file +server):\n%s", diff)
			}
		}
	})
}

// FuzzOneLine gives arbitrary text as the message of an event: the API server
// takes it, and it stays as it is.
func FuzzOneLine(f *testing.F) {
	for _, text := range []string{"", "a\nb", "\x00\x1b[31m", "\xff\xfe", strings.Repeat("é", maxMessage), strings.Repeat("a", maxMessage) + "é"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got := oneLine(text)
		if len(got) > maxMessage || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
			t.Errorf("oneLine(%q) = %q", text, got)
		}
		if again := oneLine(got); again != got {
			t.Errorf("oneLine(%q) = %q, and of that %q", text, got, again)
		}
	})
}
