package kube

import (
	"context"
	"errors"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// A Listener hears how calls about volumes ended. It must not block: what takes
// time it does in the background. Calls for one volume may overtake each other
// on their way, so that the store of records knows best what holds now. But
// the last that is heard of a volume that is gone is that it is gone.
type Listener interface {
	// Ended tells of a call that published, refreshed or failed to.
	Ended(Turn)
	// Gone tells that a volume is no longer published.
	Gone(volume.ID)
}

// A Turn is one call about a volume, and how it ended.
type Turn struct {
	Volume volume.ID
	Class  class.Name
	Pod    provider.Pod
	Result publish.Result // says nothing where the volume is not published
	Err    error          // nil, a *publish.StaleError, or why the volume is not published
}

// Stale returns the error of a refresh that failed, or nil.
func (t Turn) Stale() *publish.StaleError {
	var stale *publish.StaleError
	if errors.As(t.Err, &stale) {
		return stale
	}
	return nil
}

// Observe returns next, which keeps its records in volumes, with listeners that
// hear how its calls ended.
func Observe(next publish.Publisher, volumes volume.Store, listeners ...Listener) publish.Publisher {
	return &observer{next, volumes, listeners}
}

type observer struct {
	next      publish.Publisher
	volumes   volume.Store
	listeners []Listener
}

// Publish implements publish.Publisher.
func (o *observer) Publish(ctx context.Context, v volume.Volume) (publish.Result, error) {
	res, err := o.next.Publish(ctx, v)
	o.tell(Turn{Volume: v.ID, Class: v.Class, Pod: v.Pod, Result: res, Err: err})
	return res, err
}

// Refresh implements publish.Publisher.
func (o *observer) Refresh(ctx context.Context, id volume.ID) (publish.Result, error) {
	res, err := o.next.Refresh(ctx, id)
	if errors.Is(err, volume.ErrNotFound) {
		o.gone(id)
		return res, err
	}
	o.tell(Turn{Volume: id, Class: res.Record.Class, Pod: res.Record.Pod, Result: res, Err: err})
	return res, err
}

// Unpublish implements publish.Publisher.
func (o *observer) Unpublish(ctx context.Context, id volume.ID, target string) error {
	err := o.next.Unpublish(ctx, id, target)
	if err == nil {
		o.gone(id)
	}
	return err
}

// tell passes on a turn that says something: a call that was cut short says
// nothing of the volume, and a refresh that did not get its turn does not even
// know whose volume it is.
func (o *observer) tell(t Turn) {
	nobodys := t.Err != nil && t.Pod == (provider.Pod{})
	if nobodys || errors.Is(t.Err, context.Canceled) || errors.Is(t.Err, publish.ErrUnpublished) {
		return
	}
	for _, l := range o.listeners {
		l.Ended(t)
	}
	if _, published := o.volumes.Get(t.Volume); !published && (t.Err == nil || t.Stale() != nil) {
		o.gone(t.Volume) // it was unpublished while this was on its way
	}
}

func (o *observer) gone(id volume.ID) {
	for _, l := range o.listeners {
		l.Gone(id)
	}
}
