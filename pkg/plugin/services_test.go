package plugin_test

import (
	"context"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider"
)

// talkative is a provider with both optional interfaces.
type talkative struct {
	provider.Provider
	changes  chan string // empty string: an error
	released chan provider.Lease
}

func newTalkative() *talkative {
	return &talkative{says("content"), make(chan string), make(chan provider.Lease, 10)}
}

var errTold = errors.New("the backend went away")

func (p *talkative) Changes(ctx context.Context, changed func(string)) error {
	for {
		select {
		case id := <-p.changes:
			if id == "error" {
				return errors.Join(errTold, provider.ErrDenied)
			}
			changed(id)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *talkative) Release(_ context.Context, lease provider.Lease) error {
	p.released <- lease
	if lease.ID == "unknown" {
		return provider.ErrNotFound
	}
	return nil
}

// wrapper hides the optional interfaces of a provider behind Unwrap.
type wrapper struct{ next provider.Provider }

func (w wrapper) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	return w.next.Fetch(ctx, req)
}
func (w wrapper) Unwrap() provider.Provider { return w.next }

// subscribe runs Changes of the provider in dir until cancel, or until it ends.
func subscribe(t *testing.T, dir string) (p provider.Provider, heard chan string, ended chan error, cancel context.CancelFunc) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p = lookup(t, newDir(t, nil, dir))
	heard, ended = make(chan string, 10), make(chan error, 1)
	go func() { ended <- p.(provider.Notifier).Changes(ctx, func(id string) { heard <- id }) }()
	return p, heard, ended, cancel
}

// send hands a change to the provider's Changes.
func send(t *testing.T, p *talkative, id string) {
	t.Helper()
	select {
	case p.changes <- id:
	case <-t.Context().Done():
		t.Fatal("nobody asked for changes")
	}
}

func TestChangesArePushedUntilTheContextEnds(t *testing.T) {
	dir, told := shortDir(t), newTalkative()
	serve(t, listen(t, dir), wrapper{told}, nil)
	_, heard, ended, cancel := subscribe(t, dir)
	var got []string
	for _, id := range []string{"a", "", "b"} {
		send(t, told, id)
		got = append(got, receive(t, heard))
	}
	if diff := cmp.Diff([]string{"a", "", "b"}, got); diff != "" {
		t.Errorf("changes (-want +got):\n%s", diff)
	}
	cancel()
	if err := receive(t, ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Changes = %v, want %v", err, context.Canceled)
	}
}

func TestChangesReturnTheProvidersReason(t *testing.T) {
	dir, told := shortDir(t), newTalkative()
	serve(t, listen(t, dir), told, nil)
	_, _, ended, cancel := subscribe(t, dir)
	defer cancel()
	send(t, told, "error")
	if err := receive(t, ended); !errors.Is(err, provider.ErrDenied) {
		t.Errorf("Changes = %v, want %v", err, provider.ErrDenied)
	}
}

func TestChangesEndWithTheServer(t *testing.T) {
	dir, told := shortDir(t), newTalkative()
	stop := serve(t, listen(t, dir), told, &plugin.ServeOptions{Grace: 2 * patience})
	_, heard, ended, cancel := subscribe(t, dir)
	defer cancel()
	send(t, told, "a")
	receive(t, heard)
	stop() // long before the grace period
	if err := receive(t, ended); !errors.Is(err, provider.ErrUnavailable) || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Changes = %v, want %v", err, provider.ErrUnavailable)
	}
}

func TestChangesEndWhenTheSocketIsReplaced(t *testing.T) {
	dir, told := shortDir(t), newTalkative()
	serve(t, listen(t, dir), told, nil)
	p, heard, ended, cancel := subscribe(t, dir)
	defer cancel()
	send(t, told, "a")
	receive(t, heard)
	serve(t, listen(t, dir), says("new"), nil)
	if got := content(t, p); got != "new" {
		t.Errorf("content = %q, want new", got)
	}
	if err := receive(t, ended); !errors.Is(err, provider.ErrUnavailable) {
		t.Errorf("Changes = %v, want %v", err, provider.ErrUnavailable)
	}
}

func TestALeaseIsReleased(t *testing.T) {
	dir, told := shortDir(t), newTalkative()
	serve(t, listen(t, dir), wrapper{told}, nil)
	releaser := lookup(t, newDir(t, nil, dir)).(provider.Releaser)
	for id, want := range map[string]error{"lease": nil, "unknown": provider.ErrNotFound} {
		if err := releaser.Release(t.Context(), provider.Lease{ID: id}); !errors.Is(err, want) {
			t.Errorf("Release(%q) = %v, want %v", id, err, want)
		}
		if got := receive(t, told.released); got.ID != id {
			t.Errorf("released %q, want %q", got.ID, id)
		}
	}
	if err := releaser.Release(t.Context(), provider.Lease{}); err != nil || len(told.released) != 0 {
		t.Errorf("Release of nothing = %v, and %d calls", err, len(told.released))
	}
}

func TestAProviderWithoutTheOptionalServicesSaysSo(t *testing.T) {
	theirs, ours := shortDir(t), shortDir(t)
	serveForeign(t, listen(t, theirs), replies(nil))
	serve(t, listen(t, ours), says("content"), nil)
	for name, dir := range map[string]string{"a foreign provider": theirs, "one of ours": ours} {
		p := lookup(t, newDir(t, nil, dir))
		if err := p.(provider.Notifier).Changes(t.Context(), nil); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: Changes = %v, want %v", name, err, errors.ErrUnsupported)
		}
		if err := p.(provider.Releaser).Release(t.Context(), provider.Lease{ID: "id"}); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: Release = %v, want %v", name, err, errors.ErrUnsupported)
		}
	}
}
