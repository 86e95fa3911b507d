package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/singleflight"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/volume"
)

var _ class.Source = (*Classes)(nil)

// Classes is the class.Source of an API server. A class that no volume of this
// node uses is asked for each time. While Changes runs, each class in use has
// one watch of its own and is answered from memory, also while the API server
// is away; the watch ends with the last volume of the class.
//
// Classes is a Listener: that is how it knows which classes are in use.
type Classes struct {
	client *Client
	asking singleflight.Group // many pods of one class may start at once

	mu      sync.Mutex
	used    map[volume.ID]class.Name
	watches map[class.Name]*watch // of the classes in used
	ctx     context.Context       // of Changes; nil before and after
	changed func(class.Name)      // of Changes
	running sync.WaitGroup        // watches; only added to while ctx is set
}

// A watch keeps one class in memory. It is guarded by Classes.mu.
type watch struct {
	name    class.Name
	stop    context.CancelFunc
	current *class.Class // nil until it was seen, and while it cannot be used
	seen    string       // the revision seen last, or why there is none
}

// NewClasses returns the classes of the API server, some of which the volumes
// of an earlier driver use already. It makes no call.
func NewClasses(client *Client, published []volume.Record) *Classes {
	c := &Classes{
		client:  client,
		used:    make(map[volume.ID]class.Name),
		watches: make(map[class.Name]*watch),
	}
	for _, rec := range published {
		c.use(rec.ID, rec.Class, rec.Revision)
	}
	return c
}

// Class implements class.Source.
func (c *Classes) Class(ctx context.Context, name class.Name) (*class.Class, error) {
	if found, ok := c.watched(name); ok {
		return found, nil
	}
	answer := c.asking.DoChan(name.String(), func() (any, error) { return c.ask(ctx, name) })
	select {
	case <-ctx.Done():
		return nil, fmt.Errorf("ask the API server: %w: %w", ctx.Err(), provider.ErrUnavailable)
	case a := <-answer:
		found, _ := a.Val.(*class.Class)
		return found, a.Err
	}
}

// Changes implements class.Source.
func (c *Classes) Changes(ctx context.Context, changed func(class.Name)) error {
	c.mu.Lock()
	c.ctx, c.changed = ctx, changed
	for _, w := range c.watches {
		c.start(w)
	}
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	c.ctx = nil
	c.mu.Unlock()
	c.running.Wait()
	return nil
}

// Ended implements Listener: a published volume uses its class.
func (c *Classes) Ended(t Turn) {
	if t.Err == nil {
		c.use(t.Volume, t.Class, t.Result.Record.Revision)
	}
}

// Gone implements Listener.
func (c *Classes) Gone(id volume.ID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	name, ok := c.used[id]
	if !ok {
		return
	}
	delete(c.used, id)
	if !slices.Contains(slices.Collect(maps.Values(c.used)), name) {
		c.watches[name].stop()
		delete(c.watches, name)
	}
}

// use notes that the volume uses the class, of that revision.
func (c *Classes) use(id volume.ID, name class.Name, revision string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.used[id]; known { // a volume keeps its class
		return
	}
	c.used[id] = name
	if c.watches[name] != nil {
		return
	}
	w := &watch{name: name, seen: revision, stop: func() {}}
	c.watches[name] = w
	if c.ctx != nil {
		c.start(w)
	}
}

// start runs a watch. It needs mu and ctx.
func (c *Classes) start(w *watch) {
	ctx, stop := context.WithCancel(c.ctx)
	w.stop = stop
	changed := c.changed
	c.running.Go(func() {
		c.client.watchClass(ctx, w.name, func(object *SecretProviderClass) {
			if c.see(w, object) {
				changed(w.name)
			}
		})
	})
}

// watched returns the class if a watch knows it. One that a watch has not
// found is asked for: it may have been made this moment.
func (c *Classes) watched(name class.Name) (*class.Class, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.watches[name]
	if w == nil || w.current == nil || c.ctx == nil || c.ctx.Err() != nil {
		return nil, false
	}
	return w.current, true
}

// see notes what a watch saw, nil for a class that is gone, and reports whether
// volumes must hear of it.
func (c *Classes) see(w *watch, object *SecretProviderClass) bool {
	var found *class.Class
	is := "gone"
	if object != nil {
		var err error
		if found, err = classOf(object); err != nil {
			is = err.Error()
		} else {
			is = found.Revision
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	was := w.seen
	w.current, w.seen = found, is
	return is != was
}

// ask makes one call for the class. Many may wait for it, so that it does not
// end with the first of them.
func (c *Classes) ask(ctx context.Context, name class.Name) (*class.Class, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
	defer cancel()
	object, err := c.client.classes(name.Namespace).Get(ctx, name.Name, metav1.GetOptions{})
	if err != nil {
		return nil, classError(err)
	}
	return classOf(object)
}

// classError says what an answer of the API server means for a class.
func classError(err error) error {
	switch {
	case apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		return fmt.Errorf("the API server knows no SecretProviderClasses, install the CRDs: %w", provider.ErrUnavailable)
	case apierrors.IsNotFound(err):
		return fmt.Errorf("%w: create it in the pod's namespace", class.ErrNotFound)
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fmt.Errorf("the driver's service account may not read classes, check its ClusterRole: %w: %w", err, provider.ErrUnavailable)
	default:
		return fmt.Errorf("ask the API server: %w: %w", err, provider.ErrUnavailable)
	}
}

// classOf returns the class that the object describes.
func classOf(object *SecretProviderClass) (*class.Class, error) {
	name := class.Name{Namespace: object.Namespace, Name: object.Name}
	found, err := class.New(class.Class{
		Name:          name,
		Generation:    object.Generation,
		Provider:      object.Spec.Provider,
		Parameters:    object.Spec.Parameters,
		SecretObjects: secretObjects(object.Spec.SecretObjects),
	})
	if err != nil {
		return nil, fmt.Errorf("class %s: %w: %w", name, err, class.ErrInvalid)
	}
	return found, nil
}

func secretObjects(objects []SecretObject) []class.SecretObject {
	var converted []class.SecretObject
	for _, o := range objects {
		data := make([]class.SecretData, len(o.Data))
		for i, d := range o.Data {
			data[i] = class.SecretData(d)
		}
		converted = append(converted, class.SecretObject{
			SecretName: o.SecretName, Type: o.Type, Labels: o.Labels, Annotations: o.Annotations, Data: data,
		})
	}
	return converted
}
