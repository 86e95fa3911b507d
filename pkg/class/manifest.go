package class

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	// Not sigs.k8s.io/yaml: it goes through JSON text, which writes out each
	// alias and so lets a small document ask for any amount of memory.
	"go.yaml.in/yaml/v2"
)

const (
	group = "secrets-store.csi.x-k8s.io"
	kind  = "SecretProviderClass"
)

var (
	objectName    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	namespaceName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
	yamlLine      = regexp.MustCompile(`^yaml: (?:unmarshal errors:\n  )?line ([0-9]+): `)
)

// A definition is one attempt to define a class: the class, or what is wrong.
type definition struct {
	place string // where it stands, for messages
	name  Name   // zero if not even that can be read
	class *Class // nil if err is set
	err   error  // wraps ErrInvalid
}

// An entry is what a name stands for: one class, or why there is none.
type entry struct {
	class *Class
	err   error
}

// Parse returns the valid classes that data defines, in their order: YAML
// documents or JSON, of the API versions v1 and v1alpha1, also as items of a
// List. It ignores objects of other kinds. The error joins one error for each
// invalid class; all wrap ErrInvalid, and do not take from the valid ones.
func Parse(data []byte) ([]*Class, error) {
	definitions := parse("", data)
	entries, broken := index(definitions)
	var classes []*Class
	for _, d := range definitions {
		e, ok := entries[d.name]
		delete(entries, d.name)
		switch {
		case !ok: // broken, or told already
		case e.err != nil:
			broken = append(broken, e.err)
		default:
			classes = append(classes, e.class)
		}
	}
	return classes, errors.Join(broken...)
}

// index returns what each name stands for, and the errors of definitions
// that are too broken to have a name.
func index(definitions []definition) (entries map[Name]entry, broken []error) {
	entries = make(map[Name]entry, len(definitions))
	places := make(map[Name][]string, len(definitions))
	for _, d := range definitions {
		if d.name == (Name{}) {
			broken = append(broken, d.err)
			continue
		}
		entries[d.name] = entry{d.class, d.err}
		places[d.name] = append(places[d.name], d.place)
	}
	for name, places := range places {
		if len(places) > 1 {
			entries[name] = entry{err: fmt.Errorf("class %s is defined more than once (%s): keep one: %w",
				name, strings.Join(places, "; "), ErrInvalid)}
		}
	}
	return entries, broken
}

// parse returns all definitions in data, the content of file.
func parse(file string, data []byte) []definition {
	var definitions []definition
	if file != "" {
		file += ", "
	}
	for i, doc := range documents(data) {
		place := fmt.Sprintf("%sdocument %d", file, i+1)
		object, err := decode(doc)
		if err != nil {
			definitions = append(definitions, definition{place: place, err: fmt.Errorf("%s: %w: %w", place, err, ErrInvalid)})
			continue
		}
		definitions = append(definitions, define(place, object, maxNesting)...)
	}
	return definitions
}

// A document is one YAML document of a file.
type document struct {
	text []byte
	line int // of the file at which text begins, from 0
}

// documents splits data into its documents without those that say nothing.
// No YAML can hold a line that begins with a document marker as content.
func documents(data []byte) []document {
	var docs []document
	var current document
	says := false
	flush := func(next int) {
		if says {
			docs = append(docs, current)
		}
		current, says = document{line: next}, false
	}
	n := 0
	for line := range bytes.Lines(bytes.TrimPrefix(data, []byte("\ufeff"))) {
		text := bytes.TrimRight(line, " \t\r\n")
		rest, starts := bytes.CutPrefix(text, []byte("---"))
		switch {
		case starts && (len(rest) == 0 || rest[0] == ' ' || rest[0] == '\t'):
			flush(n)
			text = bytes.TrimSpace(rest)
		case bytes.Equal(text, []byte("...")):
			flush(n + 1)
			n++
			continue
		}
		current.text = append(current.text, line...)
		says = says || len(text) > 0 && text[0] != '#' && text[0] != '%'
		n++
	}
	flush(n)
	return docs
}

// decode returns the object that the document holds. Its error does not
// quote the document.
func decode(doc document) (any, error) {
	var object any
	if json.Unmarshal(doc.text, &object) == nil { // not all JSON is YAML: tabs, surrogate pairs
		return object, nil
	}
	err := yaml.UnmarshalStrict(doc.text, &object)
	if err == nil {
		return object, nil
	}
	near := ""
	if match := yamlLine.FindStringSubmatch(err.Error()); match != nil {
		var n int
		_, _ = fmt.Sscan(match[1], &n) // digits, by the pattern
		near = fmt.Sprintf(" near line %d", doc.line+n)
	}
	return nil, fmt.Errorf("it is not valid YAML%s: look for tabs, wrong indentation, a missing quote, or a key that is given twice", near)
}

// maxNesting is how deep Lists may be in Lists, whose places add up.
const maxNesting = 8

// define returns the definitions of classes in object: one, those of the
// items of a List, or none. Lists may be in it so many levels deep.
func define(place string, object any, levels int) []definition {
	fields := mapping(object)
	apiVersion, _ := fields["apiVersion"].(string)
	objectGroup, version, _ := strings.Cut(apiVersion, "/")
	switch k, _ := fields["kind"].(string); {
	case k == "List" && levels == 0:
		return []definition{{place: place, err: fmt.Errorf("%s: it is a List of more than %d levels: %w", place, maxNesting, ErrInvalid)}}
	case k == "List":
		items, _ := fields["items"].([]any)
		var definitions []definition
		for i, item := range items {
			definitions = append(definitions, define(fmt.Sprintf("%s, item %d", place, i+1), item, levels-1)...)
		}
		return definitions
	case k != kind || apiVersion != "" && objectGroup != group:
		return nil
	default:
		return []definition{defineClass(place, version, fields)}
	}
}

// defineClass returns the definition of a class from the fields of its manifest.
func defineClass(place, version string, fields map[string]any) definition {
	name, err := parseName(mapping(fields["metadata"]))
	if err != nil {
		return definition{place: place, err: fmt.Errorf("%s: %w: %w", place, err, ErrInvalid)}
	}
	class, err := parseSpec(name, fields["spec"])
	if version != "v1" && version != "v1alpha1" {
		err = fmt.Errorf("its apiVersion is missing or not served: set it to %s/v1", group)
	}
	if err != nil {
		return definition{place: place, name: name, err: fmt.Errorf("class %s in %s: %w: %w", name, place, err, ErrInvalid)}
	}
	return definition{place: place, name: name, class: class}
}

// parseName returns the name that the metadata gives.
func parseName(metadata map[string]any) (Name, error) {
	name, _ := metadata["name"].(string)
	if !objectName.MatchString(name) {
		return Name{}, errors.New("metadata.name is missing or not a name: use lower-case letters, digits, '-' and '.', in quotes if it looks like a number")
	}
	namespace, isText := metadata["namespace"].(string)
	switch {
	case metadata["namespace"] == nil || isText && namespace == "":
		namespace = "default"
	case !namespaceName.MatchString(namespace):
		return Name{}, fmt.Errorf("metadata.namespace of %q is not a name: use lower-case letters, digits and '-', in quotes if it looks like a number", name)
	}
	return Name{Namespace: namespace, Name: name}, nil
}

// parseSpec returns the class of that name that the spec describes.
func parseSpec(name Name, spec any) (*Class, error) {
	fields := mapping(spec)
	var unknown []string
	for field := range fields {
		if !slices.Contains([]string{"provider", "parameters", "secretObjects"}, field) {
			unknown = append(unknown, field)
		}
	}
	switch {
	case fields == nil:
		return nil, errors.New("spec is missing: it needs at least spec.provider")
	case len(unknown) > 0:
		return nil, fmt.Errorf("spec.%s is not a field of a %s: the fields are provider, parameters and secretObjects", plain(slices.Min(unknown)), kind)
	}
	parameters, err := parseParameters(fields["parameters"])
	if err != nil {
		return nil, err
	}
	provider, _ := fields["provider"].(string)
	return New(Class{Name: name, Provider: provider, Parameters: parameters})
}

// plain makes a name, which may be anything, fit to be printed.
func plain(name string) string { return strings.Trim(fmt.Sprintf("%.80q", name), `"`) }

// parseParameters returns the parameters, all of which must be text.
func parseParameters(v any) (map[string]string, error) {
	fields := mapping(v)
	if fields == nil && v != nil {
		return nil, errors.New("spec.parameters is not a mapping of names to text")
	}
	parameters := make(map[string]string, len(fields))
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		switch value := fields[name].(type) {
		case string:
			parameters[name] = value
		case []any, map[any]any, map[string]any:
			return nil, fmt.Errorf("spec.parameters: the value of %.80q is a structure and not text: write it as a block of text, \"%s: |\"", name, plain(name))
		default:
			return nil, fmt.Errorf("spec.parameters: the value of %.80q is not text: quote it", name)
		}
	}
	return parameters, nil
}

// mapping returns v as a mapping with text for keys, as a decoder of JSON
// gives it; nil if it is no mapping or two keys read the same.
func mapping(v any) map[string]any {
	switch m := v.(type) {
	case map[string]any:
		return m
	case map[any]any:
		fields := make(map[string]any, len(m))
		for key, value := range m {
			fields[fmt.Sprint(key)] = value
		}
		if len(fields) < len(m) {
			return nil
		}
		return fields
	default:
		return nil
	}
}
