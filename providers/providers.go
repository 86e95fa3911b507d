// Package providers is the list of the providers that are built in. Adding
// one takes three lines here, and nothing elsewhere but its own package.
package providers

import (
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/file"
)

// A Set is the built-in providers with the values of their flags.
type Set struct{ builtins []builtin }

// A builtin makes the provider of a name.
type builtin struct {
	name string
	make func() (provider.Provider, error)
}

// AddFlags adds the flags of all built-in providers. They must be parsed
// before New.
func AddFlags(fs *pflag.FlagSet) *Set {
	var files file.Options
	files.AddFlags(fs)

	return &Set{[]builtin{
		{"file", func() (provider.Provider, error) { return file.New(&files) }},
	}}
}

// Names returns the names of the built-in providers.
func (s *Set) Names() []string {
	names := make([]string, len(s.builtins))
	for i, b := range s.builtins {
		names[i] = b.name
	}
	return names
}

// New returns the provider of a name, made as its flags say. The error wraps
// provider.ErrInvalid if there is none of that name.
func (s *Set) New(name string) (provider.Provider, error) {
	for _, b := range s.builtins {
		if b.name != name {
			continue
		}
		p, err := b.make()
		if err != nil {
			return nil, fmt.Errorf("provider %q: %w", name, err)
		}
		return p, nil
	}
	return nil, fmt.Errorf("provider %q is not built in (there is %s): %w", name, strings.Join(s.Names(), ", "), provider.ErrInvalid)
}
