package plugin_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider"
)

func TestAProviderHasToBeServedByItsUser(t *testing.T) {
	own := uint32(os.Getuid())
	for _, c := range []struct {
		name    string
		users   map[string]uint32
		refused bool
	}{
		{"nobody has said whose it is", nil, false},
		{"it is that user", map[string]uint32{"test": own}, false},
		{"it is another one", map[string]uint32{"test": own + 1}, true},
		{"another provider has to be another user's", map[string]uint32{"other": own + 1}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := shortDir(t)
			serve(t, listen(t, dir), says("secret"), nil)
			p := lookup(t, newDir(t, &plugin.Options{Users: c.users, DialWait: 100 * time.Millisecond}, dir))
			_, err := p.Fetch(t.Context(), &provider.Request{Class: "ns/c"})
			switch {
			case !c.refused && err != nil:
				t.Error(err)
			case c.refused && (!errors.Is(err, provider.ErrUnavailable) || !strings.Contains(err.Error(), "--provider-users")):
				t.Errorf("Fetch = %v", err)
			}
		})
	}
}
