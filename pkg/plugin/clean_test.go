package plugin

import (
	"strings"
	"testing"

	"github.com/keymount/keymount/pkg/secret"
)

func TestClean(t *testing.T) {
	for name, test := range map[string]struct {
		text    string
		secrets []string
		want    string
	}{
		"an ordinary message stays":          {`object "a": not found`, []string{"hunter2"}, `object "a": not found`},
		"a secret is masked wherever it is":  {"hunter2, again hunter2", []string{"hunter2"}, "[secret], again [secret]"},
		"the longest secret is masked first": {"abcdefgh", []string{"abcd", "abcdefgh"}, "[secret]"},
		"a short secret is masked as it is":  {"id x7 is bad", []string{"x7"}, "id [secret] is bad"},
		"an empty secret masks nothing":      {"all is well", []string{""}, "all is well"},
		"space around a secret may go":       {"got 'hunter2'", []string{" hunter2\n"}, "got '[secret]'"},
		"short parts of a secret may stay":   {"user root failed", []string{"root.hunter2"}, "user root failed"},
		"it becomes one line":                {"a\r\n\tb\x00c\x7f", nil, "a b c"},
		"direction marks go":                 {"a\u202eb\u200bc", nil, "a b c"},
		"bytes that are no text go":          {"a\xff\xfeb", nil, "a?b"},
		"letters of any script stay":         {"größe 大", nil, "größe 大"},
		"it is cut between letters":          {strings.Repeat("ä", 600), nil, strings.Repeat("ä", 512) + "... (176 more bytes)"},
		"the cut shows no half of a letter":  {"a" + strings.Repeat("ä", 600), nil, "a" + strings.Repeat("ä", 511) + "... (178 more bytes)"},
	} {
		var secrets []secret.Value
		for _, s := range test.secrets {
			secrets = append(secrets, secret.New([]byte(s)))
		}
		if got := clean(test.text, secrets); got != test.want {
			t.Errorf("%s: clean(%q) = %q, want %q", name, test.text, got, test.want)
		}
	}
}
