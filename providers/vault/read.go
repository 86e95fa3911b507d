package vault

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keymount/keymount/pkg/secret"
)

// A read is one request for secrets. Two objects with the same read are made
// of one answer, so that a user name goes with its password; what a read is
// the same by is all that the server sees of it.
type read struct {
	method   string
	path     string // below /v1/
	query    url.Values
	body     []byte // JSON; nil for none
	digest   string
	optional bool // every object that is made of it is
}

// newRead returns the read of an object.
func newRead(method, secretPath string, args map[string]any) (*read, error) {
	where, query, err := parsePath(secretPath)
	if err != nil {
		return nil, fmt.Errorf("secretPath %w", err)
	}
	r := &read{method: method, path: where, query: query, optional: true}
	if r.method == "" {
		r.method = http.MethodGet
	}
	if strings.ContainsFunc(r.method, func(c rune) bool { return c > unicode.MaxASCII || !unicode.IsLetter(c) }) {
		return nil, errors.New("method must be a word such as GET, LIST, PUT or POST")
	}
	if len(args) > 0 {
		if r.body, err = json.Marshal(args); err != nil {
			return nil, errors.New("secretArgs cannot be written as JSON")
		}
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%q %q %q %q", r.method, r.path, r.query.Encode(), r.body)
	r.digest = base64.RawURLEncoding.EncodeToString(sum.Sum(nil)[:9])
	return r, nil
}

// String names the read in errors.
func (r *read) String() string { return r.method + " " + r.path }

// parsePath splits a secretPath into the path below /v1/ and the query. A v1
// at the beginning, and slashes around, may be there or not.
func parsePath(text string) (where string, query url.Values, err error) {
	where, rawQuery, _ := strings.Cut(text, "?")
	if query, err = url.ParseQuery(rawQuery); err != nil {
		return "", nil, errors.New("has a malformed query after the question mark")
	}
	where = strings.TrimPrefix(strings.TrimPrefix(where, "/"), "v1/")
	if strings.Trim(where, "/") == "" {
		return "", nil, errors.New("must be set, such as secret/data/db")
	}
	if err := checkPath(where); err != nil {
		return "", nil, err
	}
	return strings.TrimPrefix(path.Clean("/"+where), "/"), query, nil
}

// checkPath returns what is wrong with a path of the API.
func checkPath(p string) error {
	switch {
	case !utf8.ValidString(p), strings.ContainsFunc(p, unicode.IsControl):
		return errors.New("must be text without control characters")
	case len(p) > 4096:
		return errors.New("is longer than 4096 bytes")
	case slices.Contains(strings.Split(p, "/"), ".."):
		return errors.New(`must have no ".."`)
	default:
		return nil
	}
}

// simple reports whether the read is one that the versions of the key-value
// engine tell all about.
func (r *read) simple() bool {
	for name := range r.query {
		if name != "version" {
			return false
		}
	}
	return r.method == http.MethodGet && r.body == nil
}

// call returns the request of the read.
func (r *read) call() call {
	return call{method: r.method, path: r.path, query: r.query, body: secret.New(r.body)}
}
