package vault

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/params"
	"github.com/keymount/keymount/pkg/secret"
)

// An object is one file of a volume.
type object struct {
	name     string
	read     *read
	key      string // empty: the whole answer
	encoding params.Encoding
	mode     fs.FileMode
	optional bool
}

// recipe says what the object makes of an answer, so that a class which
// changes it changes the version.
func (o object) recipe() string {
	return fmt.Sprintf("%q %s %q %q %o", o.name, o.read.digest, o.key, o.encoding, o.mode)
}

// failed puts the object before an error.
func (o object) failed(err error) error {
	return fmt.Errorf("couldn't read secret %q: %w", o.name, err) // a text that people search for
}

// errNoKey says that an answer does not have what the object is to hold.
var errNoKey = fmt.Errorf("no such key, %w", provider.ErrNotFound)

// content returns the bytes of the object's file. The error wraps errNoKey, or
// provider.ErrInvalid.
func (o object) content(a *answer, product Product) (secret.Value, error) {
	if o.key == "" {
		return a.document(product)
	}
	found, err := a.value(o.key)
	switch {
	case errors.Is(err, errNoKey):
		// A text that people search for.
		return secret.Value{}, fmt.Errorf("{%s}: {key %q does not exist at the secret path}: %w", o.read.path, o.key, errNoKey)
	case err != nil:
		return secret.Value{}, err
	}
	text, ok := found.(string)
	if !ok {
		return compact(found)
	}
	decoded, err := o.encoding.Decode([]byte(text))
	if err != nil {
		return secret.Value{}, fmt.Errorf("key %q of %s: %w", o.key, o.read.path, err)
	}
	return secret.New(decoded), nil
}

// dig returns what data has under the key: that very one, or else the one that
// the dots of the key lead to.
func dig(data map[string]any, key string) (any, bool) {
	if value, ok := data[key]; ok {
		return value, true
	}
	for i, c := range key {
		inner, ok := data[key[:i]].(map[string]any)
		if c != '.' || !ok {
			continue
		}
		if value, ok := dig(inner, key[i+1:]); ok {
			return value, true
		}
	}
	return nil, false
}

// compact returns a value that is no text as JSON.
func compact(value any) (secret.Value, error) {
	text, err := json.Marshal(value)
	if err != nil {
		return secret.Value{}, fmt.Errorf("the value cannot be written as JSON: %w", provider.ErrInvalid)
	}
	return secret.New(text), nil
}

// value returns what the answer has under a key. Version 2 of the key-value
// engine has the fields one level deeper, with its metadata beside them. The
// other level is looked at too, because clients never told one from the other.
func (a *answer) value(key string) (any, error) {
	var body struct {
		Data map[string]any `json:"data"`
	}
	if err := a.response.decode(&body); err != nil {
		return nil, err
	}
	inner, _ := body.Data["data"].(map[string]any)
	levels := []map[string]any{body.Data, inner}
	if inner != nil && (a.kind == versioned || a.kind == unknown) {
		slices.Reverse(levels)
	}
	for _, level := range levels {
		if found, ok := dig(level, key); ok {
			return found, nil
		}
	}
	return nil, errNoKey
}

// document returns the whole answer as JSON, as the client libraries of the
// products print it: without what the product's own does not know.
func (a *answer) document(product Product) (secret.Value, error) {
	var body struct {
		RequestID     string          `json:"request_id"`
		LeaseID       string          `json:"lease_id"`
		LeaseDuration int             `json:"lease_duration"`
		Renewable     bool            `json:"renewable"`
		Data          map[string]any  `json:"data"`
		Warnings      []string        `json:"warnings"`
		Auth          json.RawMessage `json:"auth,omitempty"`
		WrapInfo      json.RawMessage `json:"wrap_info,omitempty"`
		MountType     string          `json:"mount_type,omitempty"`
	}
	if err := a.response.decode(&body); err != nil {
		return secret.Value{}, err
	}
	body.Auth, body.WrapInfo = unlessNull(body.Auth), unlessNull(body.WrapInfo)
	if product == OpenBao {
		body.MountType = ""
	}
	return compact(body)
}

func unlessNull(raw json.RawMessage) json.RawMessage {
	if string(raw) == "null" {
		return nil
	}
	return raw
}

// essence returns the part of an answer that its version is of: the data,
// without the request's ID, the lease and the warnings, which differ each time.
func (a *answer) essence() (secret.Value, error) {
	var body struct {
		Data map[string]any `json:"data"`
	}
	if err := a.response.decode(&body); err != nil {
		return secret.Value{}, err
	}
	if _, rotated := body.Data["last_vault_rotation"]; rotated {
		delete(body.Data, "ttl") // counts down
	}
	return compact(body.Data)
}

// decode decodes the body of an answer. The error never quotes it.
func (r *response) decode(into any) error {
	decoder := json.NewDecoder(bytes.NewReader(r.body.Reveal()))
	decoder.UseNumber()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("%s: the answer is not what the API describes: %w", r.request, provider.ErrUnavailable)
	}
	return nil
}
