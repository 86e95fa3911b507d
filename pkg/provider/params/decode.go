package params

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// tag is the key of the struct tag that names a field; the name rest stands
// for all that the struct does not have.
const (
	tag  = "param"
	rest = "*"
)

// A scalarDecoder decodes itself from a scalar. Its errors say what is
// wanted and quote nothing.
type scalarDecoder interface {
	decodeScalar(text string, typed bool) error
}

// decode sets into from n, which is at that place. Null leaves it as it is.
func decode(n node, into reflect.Value, at string) error {
	if n.kind == null {
		return nil
	}
	if special, ok := into.Addr().Interface().(scalarDecoder); ok {
		return decodeScalar(n, at, func() error { return special.decodeScalar(n.text, n.typed) })
	}
	switch into.Kind() {
	case reflect.Struct:
		return decodeStruct(n, into, at)
	case reflect.Slice:
		return decodeSlice(n, into, at)
	case reflect.Pointer:
		into.Set(reflect.New(into.Type().Elem()))
		return decode(n, into.Elem(), at)
	case reflect.Interface:
		value, err := tree(n, at)
		if err == nil {
			into.Set(reflect.ValueOf(value))
		}
		return err
	default:
		return decodeScalar(n, at, func() error { return setScalar(n.text, into) })
	}
}

// decodeScalar calls set for a scalar, and puts the place before its error.
func decodeScalar(n node, at string, set func() error) error {
	if n.kind != scalar {
		return invalid("%s is %s, want a single value", at, n.kind)
	}
	if err := set(); err != nil {
		return invalid("%s: %v", at, err)
	}
	return nil
}

func setScalar(text string, into reflect.Value) error {
	switch into.Kind() {
	case reflect.String:
		into.SetString(text)
	case reflect.Bool:
		value, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("want true or false")
		}
		into.SetBool(value)
	case reflect.Int:
		value, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("want a whole number")
		}
		into.SetInt(int64(value))
	default:
		return fmt.Errorf("the provider declares a field of type %s, which parameters cannot have", into.Type())
	}
	return nil
}

func decodeSlice(n node, into reflect.Value, at string) error {
	if n.kind != sequence {
		return invalid("%s is %s, want a list", at, n.kind)
	}
	into.Set(reflect.MakeSlice(into.Type(), len(n.items), len(n.items)))
	for i, item := range n.items {
		if err := decode(item, into.Index(i), fmt.Sprintf("%s[%d]", at, i)); err != nil {
			return err
		}
	}
	return nil
}

func decodeStruct(n node, into reflect.Value, at string) error {
	if n.kind != mapping {
		return invalid("%s is %s, want fields", place(at), n.kind)
	}
	names := fieldNames(into.Type())
	seen := make(map[int]bool)
	for _, f := range n.fields {
		i := indexFold(names, f.name)
		switch {
		case i < 0 && slices.Contains(names, rest):
			continue
		case i < 0:
			return invalid("%s: unknown field %q%s", place(at), shorten(f.name), suggest(f.name, names))
		case seen[i]:
			return invalid("%s sets %q twice", place(at), names[i])
		}
		seen[i] = true
		if err := decode(f.value, into.Field(i), strings.TrimPrefix(at+"."+names[i], ".")); err != nil {
			return err
		}
	}
	return nil
}

func place(at string) string {
	if at == "" {
		return "document"
	}
	return at
}

// fieldNames returns the tag of each field, "" for a field without one.
func fieldNames(t reflect.Type) []string {
	names := make([]string, t.NumField())
	for i := range names {
		names[i] = t.Field(i).Tag.Get(tag)
	}
	return names
}

func indexFold(names []string, name string) int {
	for i := range names {
		if names[i] != "" && names[i] != rest && strings.EqualFold(names[i], name) {
			return i
		}
	}
	return -1
}

// suggest returns a hint for the known name that is nearest to name, and
// else one that lists what is known; "" if nothing is.
func suggest(name string, known []string) string {
	best, distance := "", 1+max(2, len(name)/3)
	var all []string
	for _, candidate := range known {
		if candidate == "" {
			continue
		}
		all = append(all, candidate)
		if d := edits(strings.ToLower(shorten(name)), strings.ToLower(candidate)); d < distance {
			best, distance = candidate, d
		}
	}
	switch {
	case best != "":
		return fmt.Sprintf(", did you mean %q?", best)
	case len(all) > 0 && len(all) <= 16:
		return fmt.Sprintf(" (there is %s)", strings.Join(all, ", "))
	default:
		return ""
	}
}

// shorten keeps a name that somebody made up from filling an error.
func shorten(name string) string {
	const limit = 64
	if len(name) <= limit {
		return name
	}
	return strings.ToValidUTF8(name[:limit], "") + "..."
}

// edits counts the insertions, deletions and replacements between a and b.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}
