package publish_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

func TestAFailedPublishNamesItsProviderWhereThatIsKnown(t *testing.T) {
	of := func(provider string) publish.Result {
		return publish.Result{Record: volume.Record{Provider: provider}}
	}
	for _, c := range []struct {
		name, step string
		err        error
		want       publish.Result
	}{
		{"there is no class", stepClass, class.ErrNotFound, of("")},
		{"there is no such provider", stepLookup, provider.ErrUnavailable, of("fake")},
		{"nothing can be mounted", stepMount, errFault, of("fake")},
		{"the provider refuses", stepFetch, provider.ErrDenied, of("fake")},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.breaks(c.step, c.err)
			got, err := w.publish()
			if err == nil {
				t.Fatal("the publish succeeded")
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("result (-want +got):\n%s", diff)
			}
		})
	}
}
