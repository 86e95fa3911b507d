// Package providers is the list of the providers that are built in. Adding
// one takes a few lines here, and nothing elsewhere but its own package.
package providers

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/aws"
	"github.com/keymount/keymount/providers/azure"
	"github.com/keymount/keymount/providers/file"
	"github.com/keymount/keymount/providers/vault"
)

// A Set is the built-in providers with the values of their flags.
type Set struct {
	// Environment looks a variable up for settings that a flag leaves open;
	// os.Getenv does. Nil: none is set.
	Environment func(name string) string

	builtins []builtin
}

// A builtin makes the provider of a name.
type builtin struct {
	name  string
	make  func() (provider.Provider, error)
	files func() []string
}

// AddFlags adds the flags of all built-in providers. They must be parsed
// before New.
func AddFlags(fs *pflag.FlagSet) *Set {
	set := &Set{}
	var files file.Options
	files.AddFlags(fs)
	set.add("file", func() (provider.Provider, error) { return file.New(&files) }, files.Files)
	for _, product := range []vault.Product{vault.Vault, vault.OpenBao} {
		var server vault.Options
		server.AddFlags(fs, product)
		set.add(string(product), func() (provider.Provider, error) {
			server.Environment = set.Environment
			return vault.New(product, &server)
		}, func() []string { return server.Files(product) })
	}
	var cloud aws.Options
	cloud.AddFlags(fs)
	set.add("aws", func() (provider.Provider, error) { return aws.New(&cloud) }, func() []string { return cloud.Files(set.Environment) })
	var vaults azure.Options
	vaults.AddFlags(fs)
	set.add("azure", func() (provider.Provider, error) {
		vaults.Environment = set.Environment
		return azure.New(&vaults)
	}, vaults.Files)
	return set
}

func (s *Set) add(name string, make func() (provider.Provider, error), files func() []string) {
	s.builtins = append(s.builtins, builtin{name, make, files})
}

// Files returns the files and folders that the providers of these names, once
// they are made, read because a flag or the environment says so.
func (s *Set) Files(names []string) []string {
	var all []string
	for _, b := range s.builtins {
		if slices.Contains(names, b.name) {
			all = append(all, b.files()...)
		}
	}
	return all
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
// provider.ErrInvalid if there is none of that name. A provider that is an
// io.Closer must be closed when it is no longer used.
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
