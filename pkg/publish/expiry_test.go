package publish_test

import (
	"context"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
)

// expiring is a provider that says when what it serves expires.
type expiring struct {
	provider.Provider
	end *time.Time
}

func (e expiring) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	bundle, err := e.Provider.Fetch(ctx, req)
	if err == nil {
		bundle.Expires = *e.end
	}
	return bundle, err
}

func TestTheRecordSaysWhenWhatItHoldsExpires(t *testing.T) {
	w := newWorld(t)
	var end time.Time
	w.config.Providers = provider.Decorate(w.lookup, func(_ string, next provider.Provider) provider.Provider { return expiring{next, &end} })
	w.service = publish.New(w.config)
	mustSay := func(res publish.Result, err error) {
		t.Helper()
		rec, _ := w.volumes.Get(w.volume().ID)
		if err != nil || !rec.Expires.Equal(end) || !res.Record.Expires.Equal(end) {
			t.Errorf("the record says %v and the result %v, want %v; error %v", rec.Expires, res.Record.Expires, end, err)
		}
	}
	end = time.Now().Add(time.Hour)
	mustSay(w.mustPublish(), nil)
	for _, end = range []time.Time{time.Now().Add(2 * time.Hour), {}} {
		mustSay(w.service.Refresh(t.Context(), w.volume().ID))
	}
}
