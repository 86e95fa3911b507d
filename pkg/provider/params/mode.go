package params

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
)

var errMode = errors.New(`want permission bits up to 0777 in octal, such as 0640 or "0640"`)

// A Mode is the permission bits of a file; zero means that none are set.
//
// A number means what it means in YAML: 0640, 0o640 and 416 are the same. In
// quotes, digits are octal, with or without a leading zero: "640" and "0640".
// Anything else and more than 0777 are errors.
type Mode fs.FileMode

// Or returns the mode, or fallback if none is set.
func (m Mode) Or(fallback fs.FileMode) fs.FileMode {
	if m == 0 {
		return fallback
	}
	return fs.FileMode(m)
}

func (m *Mode) decodeScalar(text string, typed bool) error {
	base := 8
	if typed && !strings.HasPrefix(text, "0") {
		base = 10
	}
	bits, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), base, 32)
	if err != nil || bits > uint64(fs.ModePerm) {
		return errMode
	}
	*m = Mode(bits)
	return nil
}
