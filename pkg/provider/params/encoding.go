package params

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"strings"
	"unicode"
)

// An Encoding says how the stored form of a secret stands for its bytes. The
// zero Encoding is UTF8.
type Encoding string

const (
	UTF8   Encoding = ""       // the bytes as they are, whether or not they are UTF-8
	Base64 Encoding = "base64" // standard or URL alphabet, padded or not
	Hex    Encoding = "hex"    // in either case
)

var errEncodingName = errors.New("invalid encoding type. Should be utf-8, base64, or hex") // a text that people search for

func (e *Encoding) decodeScalar(text string, _ bool) error {
	switch strings.ToLower(text) {
	case "", "utf-8", "utf8":
		*e = UTF8
	case "base64":
		*e = Base64
	case "hex":
		*e = Hex
	default:
		return errEncodingName
	}
	return nil
}

// Decode returns the bytes that encoded stands for. White space in base64 and
// hex does not count. The error wraps provider.ErrInvalid and quotes nothing.
func (e Encoding) Decode(encoded []byte) ([]byte, error) {
	switch e {
	case UTF8:
		return encoded, nil
	case Base64:
		return decodeText(encoded, e, decodeBase64)
	case Hex:
		return decodeText(encoded, e, func(text []byte) ([]byte, error) { return hex.AppendDecode(nil, text) })
	default:
		return nil, invalid("encoding %q: %v", string(e), errEncodingName)
	}
}

func decodeText(encoded []byte, e Encoding, decode func([]byte) ([]byte, error)) ([]byte, error) {
	decoded, err := decode(bytes.Map(dropSpace, encoded))
	if err != nil {
		return nil, invalid("content is not %s", string(e))
	}
	return decoded, nil
}

// decodeBase64 folds the four common variants into one.
func decodeBase64(text []byte) ([]byte, error) {
	text = bytes.TrimSuffix(bytes.TrimSuffix(text, []byte("=")), []byte("="))
	text = bytes.Map(standardAlphabet, text)
	return base64.RawStdEncoding.AppendDecode(nil, text)
}

func standardAlphabet(r rune) rune {
	switch r {
	case '-':
		return '+'
	case '_':
		return '/'
	default:
		return r
	}
}

func dropSpace(r rune) rune {
	if unicode.IsSpace(r) {
		return -1
	}
	return r
}
