package aws

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"maps"
	"math"
	"slices"

	"github.com/jmespath/go-jmespath"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// maxPath bounds an expression: its parser calls itself for each bracket.
const maxPath = 4096

// maxNumber is the largest whole number that JMESPath keeps exact.
const maxNumber = 1 << 53

// An extract makes a file of one part of a JSON document.
type extract struct {
	alias    string
	path     string
	compiled *jmespath.JMESPath
	file     file
	optional bool
}

// extract checks the item. The texts are those that people search for.
func (j jmesItem) extract(naming func(string) string, parent fs.FileMode) (extract, error) {
	e := extract{alias: j.ObjectAlias, path: j.Path, optional: j.Optional}
	switch {
	case j.Path == "":
		return e, errors.New("Path must be specified for JMES object")
	case j.ObjectAlias == "":
		return e, errors.New("Object alias must be specified for JMES object")
	case len(j.Path) > maxPath:
		return e, fmt.Errorf("Invalid JMES Path: longer than %d bytes", maxPath)
	}
	var err error
	if e.compiled, err = jmespath.Compile(j.Path); err != nil {
		return e, fmt.Errorf("Invalid JMES Path: %s: %w", j.Path, err)
	}
	e.file = file{naming(j.ObjectAlias), j.FilePermission.Or(parent), j.Encoding}
	return e, nil
}

// parseDocument reads the JSON that a secret holds. The error tells nothing of
// it.
func parseDocument(text secret.Value) (any, error) {
	var document any
	if err := json.Unmarshal(text.Reveal(), &document); err != nil {
		return nil, fmt.Errorf("Invalid JSON used with jmesPath in secret: %w", provider.ErrInvalid) // a text that people search for
	}
	return document, nil
}

// from returns the part of the document: text as it is, and anything else as
// JSON.
func (e extract) from(document any) (secret.Value, error) {
	found, err := e.search(document)
	if err != nil {
		return secret.Value{}, err
	}
	switch found := found.(type) {
	case nil:
		// A text that people search for.
		return secret.Value{}, fmt.Errorf("JMES Path - %s for object alias - %s does not point to a valid object: %w", e.path, e.alias, provider.ErrNotFound)
	case string:
		return secret.New([]byte(found)), nil
	}
	text, err := encode(found)
	if err != nil {
		return secret.Value{}, fmt.Errorf("JMES Path - %s for object alias - %s: %w: %w", e.path, e.alias, err, provider.ErrInvalid)
	}
	return secret.New(text), nil
}

// encode returns the compact JSON of what was found.
func encode(found any) ([]byte, error) {
	if err := check(found); err != nil {
		return nil, err
	}
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(found); err != nil { // nothing but NaN is left
		return nil, errNoJSON
	}
	return bytes.TrimSuffix(text.Bytes(), []byte("\n")), nil
}

var (
	errNoJSON = errors.New("what it finds has no JSON")
	errNumber = errors.New("what it finds has a number that is too large to be exact: store it as a string")
)

// check returns why a value would be another one as JSON.
func check(value any) error {
	switch value := value.(type) {
	case nil, string, bool:
		return nil
	case float64:
		if value == math.Trunc(value) && math.Abs(value) > maxNumber {
			return errNumber
		}
		return nil
	case []any:
		return checkAll(slices.Values(value))
	case map[string]any:
		return checkAll(maps.Values(value))
	default: // an expression of JMESPath
		return errNoJSON
	}
}

func checkAll(values iter.Seq[any]) error {
	for value := range values {
		if err := check(value); err != nil {
			return err
		}
	}
	return nil
}

// search evaluates the expression. The library's errors quote the document, and
// it may panic on what it did not expect, so that both become one that says
// where.
func (e extract) search(document any) (found any, err error) {
	failed := fmt.Errorf("JMES Path - %s for object alias - %s does not fit the content of the secret: %w", e.path, e.alias, provider.ErrInvalid)
	defer func() {
		if recover() != nil {
			found, err = nil, failed
		}
	}()
	if found, err = e.compiled.Search(document); err != nil {
		return nil, failed
	}
	return found, nil
}
