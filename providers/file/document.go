package file

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path"
	"strings"
	"unicode/utf8"

	"github.com/joho/godotenv"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/params"
)

// maxLevels bounds how many maps the dots of a key lead through. Each level is
// a copy of what is below it, so this bounds what one document costs.
const maxLevels = 16

// A document is a file of which objects take single values. It lives for one
// fetch, and is parsed once however many keys are asked for. Whatever its
// format, it is JSON then. No error quotes it: parsers do.
type document struct {
	file string // its name tells the format
	text []byte
	root *node // nil until a key is asked for
}

// A node is one value of a document.
type node struct {
	text    json.RawMessage
	parsed  bool
	members map[string]*node // nil if it is not a map; valid once parsed
}

// value returns the value of a key, as the package says.
func (d *document) value(key string) ([]byte, error) {
	if d.root == nil {
		text, err := parseDocument(d.file, d.text)
		if err != nil {
			return nil, err
		}
		d.root = &node{text: text}
	}
	if d.root.fields() == nil {
		return nil, fmt.Errorf("has no keys: it is not a map: %w", provider.ErrInvalid)
	}
	value, err := d.root.find(key)
	switch {
	case err != nil:
		return nil, err
	case value == nil:
		return nil, fmt.Errorf("key %q is not one of its %d keys: %w", key, len(d.root.fields()), provider.ErrNotFound)
	default:
		return render(value.text)
	}
}

// find returns the member with the name key, and else the one that its dots
// lead to; nil if there is neither.
func (n *node) find(key string) (*node, error) {
	for range maxLevels {
		fields := n.fields()
		if value, ok := fields[key]; ok {
			return value, nil
		}
		head, rest, dotted := strings.Cut(key, ".")
		next, ok := fields[head]
		if !dotted || !ok {
			return nil, nil
		}
		n, key = next, rest
	}
	return nil, fmt.Errorf("the key leads through more than %d maps: %w", maxLevels, provider.ErrInvalid)
}

// fields returns the members of a map, and nil for any other value.
func (n *node) fields() map[string]*node {
	if n.parsed {
		return n.members
	}
	n.parsed = true
	var members map[string]json.RawMessage
	if json.Unmarshal(n.text, &members) != nil || members == nil {
		return nil
	}
	n.members = make(map[string]*node, len(members))
	for name, text := range members {
		n.members[name] = &node{text: text}
	}
	return n.members
}

// render returns the bytes of a JSON value: text without quotes, all else
// compact and as it is written.
func render(value json.RawMessage) ([]byte, error) {
	var text string
	if value[0] == '"' && json.Unmarshal(value, &text) == nil {
		return []byte(text), nil
	}
	var compact bytes.Buffer
	if json.Compact(&compact, value) != nil {
		return nil, errNotJSON
	}
	return compact.Bytes(), nil
}

var errNotJSON = fmt.Errorf("is not valid JSON: %w", provider.ErrInvalid)

// parseDocument returns the document as JSON.
func parseDocument(file string, text []byte) (json.RawMessage, error) {
	base := path.Base(file)
	switch extension := strings.ToLower(path.Ext(file)); {
	case !utf8.Valid(text):
		return nil, fmt.Errorf("is not UTF-8: %w", provider.ErrInvalid)
	case extension == ".json":
		if !json.Valid(text) {
			return nil, errNotJSON
		}
		return text, nil
	case extension == ".yaml", extension == ".yml":
		tree, err := params.Document(text)
		if err != nil {
			return nil, err
		}
		return encode(tree)
	case extension == ".env", strings.HasPrefix(base, ".env."):
		return parseDotenv(text)
	default:
		return nil, fmt.Errorf("has no keys: its name does not end in .json, .yaml, .yml or .env: %w", provider.ErrInvalid)
	}
}

// dollar stands for $ while a dotenv file is parsed, which else would replace
// every $NAME, also one in a password.
const dollar = "\uF8FF"

func parseDotenv(text []byte) (json.RawMessage, error) {
	if bytes.Contains(text, []byte(dollar)) {
		return nil, fmt.Errorf("has the private-use character U+F8FF: %w", provider.ErrInvalid)
	}
	fields, err := godotenv.UnmarshalBytes(bytes.ReplaceAll(text, []byte("$"), []byte(dollar)))
	if err != nil {
		return nil, fmt.Errorf("is not in dotenv format: %w", provider.ErrInvalid)
	}
	for key, value := range fields {
		fields[key] = strings.ReplaceAll(value, dollar, "$")
	}
	return encode(fields)
}

// encode is json.Marshal without the escapes that HTML wants.
func encode(value any) (json.RawMessage, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return nil, fmt.Errorf("has a value that JSON cannot express: %w", provider.ErrInvalid)
	}
	return bytes.TrimSpace(text.Bytes()), nil
}
