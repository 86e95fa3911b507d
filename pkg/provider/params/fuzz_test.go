package params_test

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/params"
)

// FuzzEncoding decodes what arbitrary bytes are encoded as, in every form that
// is taken, broken into lines; and the bytes themselves, which are refused
// without a word of them.
func FuzzEncoding(f *testing.F) {
	for _, seed := range []string{"", "a", "ab", "abc", "\xfb\xff\xbf", "-_==", "+/=", "zz", "00FF", " 0 0\n", "====", "é"} {
		f.Add([]byte(seed), 3)
	}
	f.Fuzz(func(t *testing.T, data []byte, width int) {
		digits := hex.EncodeToString(data)
		for encoding, forms := range map[params.Encoding][]string{
			params.UTF8: {string(data)},
			params.Hex:  {digits, strings.ToUpper(digits), lines(digits, width)},
			params.Base64: {
				base64.StdEncoding.EncodeToString(data), base64.RawStdEncoding.EncodeToString(data), lines(base64.StdEncoding.EncodeToString(data), width),
				base64.URLEncoding.EncodeToString(data), base64.RawURLEncoding.EncodeToString(data),
			},
		} {
			for _, form := range forms {
				if got, err := encoding.Decode([]byte(form)); err != nil || string(got) != string(data) {
					t.Errorf("%q decodes %q as %q, %v; want %q", encoding, form, got, err, data)
				}
			}
			_, err := encoding.Decode(data)
			if err != nil && (!errors.Is(err, provider.ErrInvalid) || err.Error() != "content is not "+string(encoding)+": invalid") {
				t.Errorf("%q refuses with %q", encoding, err)
			}
		}
	})
}

// lines breaks a text into lines.
func lines(text string, width int) string {
	var broken strings.Builder
	for i, r := range text {
		if width > 0 && i%width == 0 {
			broken.WriteString("\r\n ")
		}
		broken.WriteRune(r)
	}
	return broken.String()
}
