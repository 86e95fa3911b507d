package params

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v2"
)

// The errors of the YAML library quote its input, so these replace them.
var (
	errYAML     = errors.New("not valid YAML")
	errStar     = errors.New("not valid YAML (a value that begins with * needs quotes)")
	errSize     = errors.New("longer than 1 MiB")
	errAlias    = errors.New("contains a YAML alias (*name), which is refused; write the value out")
	errSeveral  = errors.New("contains more than one YAML document")
	errEncoding = errors.New("contains text that is not UTF-8")
)

// A kind is the shape of a node; the zero kind is null.
type kind string

const (
	null     kind = ""
	scalar   kind = "text"
	sequence kind = "a list"
	mapping  kind = "a map"
)

// String says what the kind is, for errors.
func (k kind) String() string {
	if k == null {
		return "empty"
	}
	return string(k)
}

// A node is one YAML value. It keeps scalars as they are written: YAML's own
// reading of 0123, 1_000, 1.10 or no is not what the author of a password,
// version or file name means.
type node struct {
	kind   kind
	text   string // of a scalar
	typed  bool   // the scalar is a number or boolean to YAML, because it is not quoted
	items  []node // of a sequence
	fields []field
}

// A field is one entry of a mapping. A name may occur twice.
type field struct {
	name  string
	value node
}

// UnmarshalYAML fills the node. The decoder does not call it for null.
func (n *node) UnmarshalYAML(unmarshal func(any) error) error {
	var text string
	if unmarshal(&text) == nil {
		var value any
		_ = unmarshal(&value) // a scalar that is text decodes as its type too
		_, quoted := value.(string)
		*n = node{kind: scalar, text: text, typed: !quoted}
		return nil
	}
	var items []node
	if unmarshal(&items) == nil {
		*n = node{kind: sequence, items: items}
		return nil
	}
	var entries map[entryName]node
	if unmarshal(&entries) != nil {
		return errYAML
	}
	*n = node{kind: mapping}
	for name, value := range entries {
		if name.text == nil {
			return errYAML // the decoder does not call UnmarshalYAML for a null name either
		}
		n.fields = append(n.fields, field{name: *name.text, value: value})
	}
	slices.SortFunc(n.fields, func(a, b field) int { return strings.Compare(a.name, b.name) })
	return nil
}

// An entryName is the name of a field. Two are never equal, so that the
// decoder keeps fields that are set twice.
type entryName struct{ text *string }

// UnmarshalYAML takes the name as it is written.
func (e *entryName) UnmarshalYAML(unmarshal func(any) error) error {
	e.text = new(string)
	return unmarshal(e.text)
}

// An aliasRule says whether a text may hold YAML aliases, with which a small
// text can stand for a huge document.
type aliasRule int

const (
	refuseAliases aliasRule = iota
	boundAliases            // the YAML library limits how far they expand
)

// alias matches every alias, and some text that is none.
var alias = regexp.MustCompile(`(^|[^\w.'"/*])\*[\w-]`)

// line matches the line number with which the YAML library begins an error.
var line = regexp.MustCompile(`^yaml: line \d+:`)

// problem replaces an error of the YAML library by one that quotes nothing.
func problem(err error, text []byte) error {
	said := errYAML
	if bytes.ContainsRune(text, '*') {
		said = errStar
	}
	if at := line.FindString(err.Error()); at != "" {
		return fmt.Errorf("%w near %s", said, strings.TrimSuffix(strings.TrimPrefix(at, "yaml: "), ":"))
	}
	return said
}

// parse reads the one document in text. The errors quote nothing.
func parse(text []byte, aliases aliasRule) (node, error) {
	switch {
	case !utf8.Valid(text):
		return node{}, errEncoding // UTF-16 would hide an alias
	case aliases == refuseAliases && len(text) > MaxSize:
		return node{}, errSize
	case aliases == refuseAliases && alias.Match(text):
		return node{}, errAlias
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, more node
	if err := decoder.Decode(&document); err != nil && !errors.Is(err, io.EOF) {
		return node{}, problem(err, text)
	}
	switch err := decoder.Decode(&more); {
	case errors.Is(err, io.EOF):
		return document, nil
	case err != nil:
		return node{}, problem(err, text)
	default:
		return node{}, errSeveral
	}
}

// Document decodes a YAML document of any shape to what encoding/json makes
// of a JSON document: map[string]any, []any, string, json.Number, bool and
// nil. Scalars keep their text: one that is not a JSON number, true, false or
// null is a string. The size of text is the caller's to limit. Errors never
// quote the text.
func Document(text []byte) (any, error) {
	document, err := parse(text, boundAliases)
	if err != nil {
		return nil, invalid("%v", err)
	}
	return tree(document, "document")
}

// tree converts a node as Document says; at is its place, for errors.
func tree(n node, at string) (any, error) {
	switch n.kind {
	case scalar:
		return n.value()
	case sequence:
		items := make([]any, len(n.items))
		for i, item := range n.items {
			value, err := tree(item, at)
			if err != nil {
				return nil, err
			}
			items[i] = value
		}
		return items, nil
	case mapping:
		fields := make(map[string]any, len(n.fields))
		for _, f := range n.fields {
			if _, ok := fields[f.name]; ok {
				return nil, invalid("%s sets a key twice", at)
			}
			value, err := tree(f.value, at)
			if err != nil {
				return nil, err
			}
			fields[f.name] = value
		}
		return fields, nil
	default:
		return nil, nil
	}
}

// value returns a scalar as Document says.
func (n node) value() (any, error) {
	switch {
	case !utf8.ValidString(n.text):
		return nil, invalid("%v", errEncoding)
	case !n.typed:
		return n.text, nil
	case strings.EqualFold(n.text, "true"):
		return true, nil
	case strings.EqualFold(n.text, "false"):
		return false, nil
	case json.Valid([]byte(n.text)):
		return json.Number(n.text), nil
	default:
		return n.text, nil
	}
}
