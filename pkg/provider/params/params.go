// Package params decodes the parameters of a SecretProviderClass, strictly
// and kindly: what cannot be meant is an error that says where it is and what
// was probably meant, and every spelling that one of the known providers
// accepts is accepted for all of them.
//
// A list of objects may be a YAML list or a map with the one field "array",
// and each item a map or a string that holds the YAML of a map. Fields match
// without regard to case; text need not be quoted. A field that is set twice
// is an error; so is one that is unknown, unless the struct has a field with
// the tag `param:"*"`, as providers have whose classes always could say more.
// Errors wrap provider.ErrInvalid; they name fields and positions, never the
// content of a field.
package params

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"

	"github.com/keymount/keymount/pkg/provider"
)

// MaxSize is the largest YAML text that is read, in bytes.
const MaxSize = 1 << 20

// ErrNone says that a parameter lists nothing.
var ErrNone = errors.New("lists nothing")

// arrayField is the field that may wrap a list of objects.
const arrayField = "array"

// Objects decodes the list of objects in the parameter of that name. T is a
// struct whose fields have `param:"name"` tags; a field is text, a bool, an
// int, a Mode, an Encoding, any, or a struct, pointer or slice of those. A
// missing parameter and an empty list are errors.
func Objects[T any](parameters map[string]string, name string) ([]T, error) {
	text, ok := parameters[name]
	if !ok {
		return nil, invalid("parameter %q is missing%s", name, suggest(name, slices.Sorted(maps.Keys(parameters))))
	}
	list, err := parse([]byte(text), refuseAliases)
	if err != nil {
		return nil, invalid("parameter %q: %v", name, err)
	}
	if list.kind == mapping && len(list.fields) == 1 && list.fields[0].name == arrayField {
		list = list.fields[0].value
	}
	switch {
	case list.kind == null, list.kind == sequence && len(list.items) == 0:
		return nil, fmt.Errorf("parameter %q %w: %w", name, ErrNone, provider.ErrInvalid)
	case list.kind != sequence:
		return nil, invalid("parameter %q is %s, want a list", name, list.kind)
	}
	objects := make([]T, len(list.items))
	for i, item := range list.items {
		if err := decodeItem(item, reflect.ValueOf(&objects[i]).Elem(), fmt.Sprintf("%s[%d]", name, i)); err != nil {
			return nil, err
		}
	}
	return objects, nil
}

// decodeItem decodes one item of a list, which may be a string of YAML.
func decodeItem(item node, into reflect.Value, at string) error {
	if item.kind == scalar {
		inner, err := parse([]byte(item.text), refuseAliases)
		if err != nil {
			return invalid("%s: %v", at, err)
		}
		item = inner
	}
	if item.kind != mapping {
		return invalid("%s is %s, want fields", at, item.kind)
	}
	return decode(item, into, at)
}

// Decode decodes a whole YAML document into a T, under the rules of Objects.
func Decode[T any](text []byte) (T, error) {
	var into T
	document, err := parse(text, refuseAliases)
	if err != nil {
		return into, invalid("%v", err)
	}
	err = decode(document, reflect.ValueOf(&into).Elem(), "")
	return into, err
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, provider.ErrInvalid)...)
}
