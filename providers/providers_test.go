package providers_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers"
)

func set(t *testing.T, flags ...string) *providers.Set {
	t.Helper()
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	s := providers.AddFlags(fs)
	if err := fs.Parse(flags); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNames(t *testing.T) {
	if diff := cmp.Diff([]string{"file", "vault", "openbao", "aws", "azure"}, set(t).Names()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestNewMakesEachProviderFromItsFlags(t *testing.T) {
	s := set(t, "--file-root="+t.TempDir())
	for _, name := range s.Names() {
		if p, err := s.New(name); err != nil || p == nil {
			t.Errorf("New(%q) = %v, %v", name, p, err)
		}
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	for name, want := range map[string]string{
		"fil":  `provider "fil" is not built in (there is file, vault, openbao, aws, azure): invalid`,
		"file": `provider "file": --file-root "/nonexistent" is not a folder that can be read: invalid`,
	} {
		p, err := set(t, "--file-root=/nonexistent").New(name)
		if p != nil || !errors.Is(err, provider.ErrInvalid) || err.Error() != want {
			t.Errorf("New(%q) = %v, %v, want no provider and %s", name, p, err, want)
		}
	}
}
