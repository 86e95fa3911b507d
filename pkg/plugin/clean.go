package plugin

import (
	"cmp"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// maxMessage bounds what one provider may write into a log line or an event.
const maxMessage = 1024

// minPart is the length from which a part of a secret gives it away.
const minPart = 16

// clean makes text from a peer fit to be printed: the secrets are masked in
// it, it is one line of printable characters, and it is short. What becomes a
// secret only once it is one line is masked, too.
func clean(text string, secrets []secret.Value) string {
	text = mask(oneLine(mask(text, secrets)), secrets)
	if len(text) <= maxMessage {
		return text
	}
	kept := strings.ToValidUTF8(text[:maxMessage], "")
	return fmt.Sprintf("%s... (%d more bytes)", kept, len(text)-len(kept))
}

// oneLine returns the printable characters of a text on one line.
func oneLine(text string) string {
	text = strings.ToValidUTF8(text, "?")
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	return strings.Join(strings.Fields(text), " ")
}

// mask replaces the secrets, their parts, and their usual encodings.
func mask(text string, secrets []secret.Value) string {
	var forms []string
	for _, s := range secrets {
		for _, part := range parts(string(s.Reveal())) {
			forms = append(forms, encodings(part)...)
		}
	}
	if len(forms) == 0 {
		return text
	}
	// The longest first: a Replacer takes the first that fits.
	slices.SortFunc(forms, func(a, b string) int { return cmp.Or(cmp.Compare(len(b), len(a)), cmp.Compare(a, b)) })
	var pairs []string
	for _, form := range slices.Compact(forms) {
		pairs = append(pairs, form, secret.Mask)
	}
	return strings.NewReplacer(pairs...).Replace(text)
}

// parts returns the secret, and those lines and dotted sections of it that are
// long enough to matter: parsers quote a line of a key, or a section of a token.
func parts(s string) []string {
	found := []string{s, strings.TrimSpace(s)}
	for _, part := range strings.FieldsFunc(s, func(r rune) bool { return r == '.' || r == '\n' || r == '\r' }) {
		if len(part) >= minPart {
			found = append(found, part)
		}
	}
	return slices.DeleteFunc(found, func(part string) bool { return part == "" })
}

// encodings returns the forms in which s turns up in messages.
func encodings(s string) []string {
	if len(s) < 4 {
		return []string{s} // its encodings are everywhere by chance
	}
	quoted := strconv.Quote(s)
	lower := hex.EncodeToString([]byte(s))
	return []string{
		s,
		quoted[1 : len(quoted)-1],
		url.QueryEscape(s),
		url.PathEscape(s),
		lower,
		strings.ToUpper(lower),
		base64.RawStdEncoding.EncodeToString([]byte(s)), // also the start of the padded form
		base64.RawURLEncoding.EncodeToString([]byte(s)),
	}
}

// bearers returns the secrets of a request.
func bearers(req *provider.Request) []secret.Value {
	if req == nil {
		return nil
	}
	var found []secret.Value
	for _, token := range req.Tokens {
		found = append(found, token.Value)
	}
	for _, credential := range req.Credentials {
		found = append(found, credential)
	}
	return found
}
