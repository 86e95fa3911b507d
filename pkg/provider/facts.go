package provider

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// A Fact names something that a cluster says of a pod: of its service account,
// or of the node that it runs on.
type Fact string

// The two kinds of facts.
const (
	annotationFact = "serviceaccount/"
	labelFact      = "node/"
)

// The bounds of facts. An annotation may be larger, but what a provider needs
// of one is a name.
const (
	maxFacts     = 16
	maxFactKey   = 253 + 1 + 63 // a name with a prefix, as Kubernetes has it
	maxFactValue = 8 << 10
)

// ServiceAccountAnnotation names an annotation of the pod's service account.
func ServiceAccountAnnotation(key string) Fact { return Fact(annotationFact + key) }

// NodeLabel names a label of the node.
func NodeLabel(key string) Fact { return Fact(labelFact + key) }

// ServiceAccountAnnotation returns the key of the annotation that f names.
func (f Fact) ServiceAccountAnnotation() (key string, ok bool) {
	return strings.CutPrefix(string(f), annotationFact)
}

// NodeLabel returns the key of the label that f names.
func (f Fact) NodeLabel() (key string, ok bool) { return strings.CutPrefix(string(f), labelFact) }

// validate reports why f can be no fact of a cluster. The error does not show
// f, which need not be fit to be printed.
func (f Fact) validate() error {
	key, ok := f.ServiceAccountAnnotation()
	if !ok {
		key, ok = f.NodeLabel()
	}
	switch {
	case !ok:
		return fmt.Errorf("a fact that is of no kind that is known, want %skey or %skey", annotationFact, labelFact)
	case key == "" || len(key) > maxFactKey:
		return fmt.Errorf("a fact with a key of %d bytes, want 1 to %d", len(key), maxFactKey)
	case strings.ContainsFunc(key, unfitForKey):
		return errors.New("a fact with characters in its key that Kubernetes does not allow")
	}
	return nil
}

// unfitForKey reports whether no annotation or label has the character in its key.
func unfitForKey(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("-_./", r)
}

// Facts are what is known. An empty text means that the cluster says nothing
// of it.
type Facts map[Fact]string

// Known returns a *MissingFactsError with those of the facts that f does not
// have, or nil.
func (f Facts) Known(facts ...Fact) error {
	missing := slices.DeleteFunc(slices.Clone(facts), func(fact Fact) bool {
		_, known := f[fact]
		return known
	})
	if len(missing) == 0 {
		return nil
	}
	return &MissingFactsError{missing}
}

// Validate checks that facts can be carried to a provider: that there are few
// of them, that they name what a cluster can have, and that their texts are
// text, and not long. The error shows no text of theirs and wraps ErrInvalid.
func (f Facts) Validate() error {
	if len(f) > maxFacts {
		return fmt.Errorf("%d facts, want at most %d: %w", len(f), maxFacts, ErrInvalid)
	}
	for fact, text := range f {
		if err := fact.validate(); err != nil {
			return fmt.Errorf("%w: %w", err, ErrInvalid)
		}
		if len(text) > maxFactValue || !utf8.ValidString(text) {
			return fmt.Errorf("%s is no text of at most %d bytes: %w", fact, maxFactValue, ErrInvalid)
		}
	}
	return nil
}

// A MissingFactsError says that a request lacks facts. It wraps ErrInvalid. A
// driver of a cluster looks them up when it sees one, and fetches once more.
type MissingFactsError struct{ Facts []Fact }

// Error says how the facts can be had.
func (e *MissingFactsError) Error() string {
	names := make([]string, len(e.Facts))
	for i, fact := range e.Facts {
		names[i] = fmt.Sprintf("%.200q", fact)
	}
	return fmt.Sprintf("nobody looked up %s in the cluster: run a Keymount driver that has an API server, or set in the class what the provider takes instead: %v",
		strings.Join(names, " and "), ErrInvalid)
}

// Unwrap returns ErrInvalid.
func (e *MissingFactsError) Unwrap() error { return ErrInvalid }

// Validate checks that a driver can look up what is missing: one fact at
// least, and such as Facts may have. The error wraps ErrInvalid.
func (e *MissingFactsError) Validate() error {
	if len(e.Facts) == 0 || len(e.Facts) > maxFacts {
		return fmt.Errorf("%d facts are missing, want 1 to %d: %w", len(e.Facts), maxFacts, ErrInvalid)
	}
	asked := make(Facts, len(e.Facts))
	for _, fact := range e.Facts {
		asked[fact] = ""
	}
	return asked.Validate()
}
