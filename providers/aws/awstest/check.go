package awstest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// check reports what of an input is outside of the limits that the tags of its
// fields state: json, the name on the wire; need, if it must be there; and for
// it, or each of its elements, if it is there: len, the "min-max" of
// characters, bytes, or the value of a number; like, a regular expression;
// oneof, all that it can be. count is the "min-max" of elements. What is
// secret is not quoted.
func check(given map[string]json.RawMessage, in any) error {
	var wrong []string
	value := reflect.ValueOf(in).Elem()
	for _, field := range reflect.VisibleFields(value.Type()) {
		if field.Anonymous {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		raw, there := given[name]
		switch {
		case there && string(raw) != "null":
			wrong = append(wrong, checkMember(lowerFirst(name), field.Tag, value.FieldByIndex(field.Index))...)
		case field.Tag.Get("need") != "":
			wrong = append(wrong, fmt.Sprintf("Value null at '%s' failed to satisfy constraint: Member must not be null", lowerFirst(name)))
		}
	}
	switch len(wrong) {
	case 0:
		return nil
	case 1:
		return refuse("ValidationException", "1 validation error detected: %s", wrong[0])
	default:
		return refuse("ValidationException", "%d validation errors detected: %s", len(wrong), strings.Join(wrong, "; "))
	}
}

func lowerFirst(name string) string {
	first, size := utf8.DecodeRuneInString(name)
	return string(unicode.ToLower(first)) + name[size:]
}

// checkMember returns what is wrong with a member that is there.
func checkMember(name string, tag reflect.StructTag, v reflect.Value) (wrong []string) {
	v = reflect.Indirect(v)
	quoted := fmt.Sprintf("Value '%v' at", v.Interface())
	if tag.Get("secret") != "" {
		quoted = "Value at"
	}
	complain := func(format string, args ...any) {
		wrong = append(wrong, fmt.Sprintf("%s '%s' failed to satisfy constraint: Member must ", quoted, name)+fmt.Sprintf(format, args...))
	}
	if v.Kind() != reflect.Slice || v.Type().Elem().Kind() == reflect.Uint8 {
		for _, constraint := range broken(tag, v) {
			complain("%s", constraint)
		}
		return wrong
	}
	quoted = "Value '[" + strings.Trim(strings.ReplaceAll(fmt.Sprint(v.Interface()), " ", ", "), "[]") + "]' at"
	if limit := outside(tag.Get("count"), v.Len()); limit != "" {
		complain("have length %s", limit)
	}
	for i := range v.Len() {
		if all := broken(tag, v.Index(i)); len(all) > 0 {
			complain("satisfy constraint: [Member must %s]", strings.Join(all, ", Member must "))
		}
	}
	return wrong
}

// broken returns the constraints that a text, a number or bytes do not keep.
func broken(tag reflect.StructTag, v reflect.Value) (constraints []string) {
	what := "length"
	var size int
	switch v.Kind() {
	case reflect.String:
		size = utf8.RuneCountInString(v.String())
	case reflect.Int, reflect.Int64:
		size, what = int(v.Int()), "value"
	case reflect.Slice:
		size = v.Len()
	default:
		return nil
	}
	if limit := outside(tag.Get("len"), size); limit != "" {
		constraints = append(constraints, "have "+what+" "+limit)
	}
	if like := tag.Get("like"); like != "" && !regexp.MustCompile(`^(?:`+like+`)$`).MatchString(v.String()) {
		constraints = append(constraints, "satisfy regular expression pattern: "+like)
	}
	if all := strings.Fields(tag.Get("oneof")); len(all) > 0 && !slices.Contains(all, v.String()) {
		constraints = append(constraints, "satisfy enum value set: ["+strings.Join(all, ", ")+"]")
	}
	return constraints
}

// outside returns which of the limits "min-max" a size does not keep; empty:
// none.
func outside(limits string, size int) string {
	low, high, _ := strings.Cut(limits, "-")
	if least, err := strconv.Atoi(low); err == nil && size < least {
		return "greater than or equal to " + low
	}
	if most, err := strconv.Atoi(high); err == nil && size > most {
		return "less than or equal to " + high
	}
	return ""
}
