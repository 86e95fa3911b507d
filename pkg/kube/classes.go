package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

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
	asking asking[*class.Class] // many pods of one class may start at once

	watches watches[class.Name] // of the classes in used
	changed func(class.Name)    // of Changes; set before watches run

	mu   sync.Mutex
	used map[volume.ID]class.Name
	seen map[class.Name]*sight // of the classes in used
}

// A sight is what a watch saw last of a class. It is guarded by Classes.mu.
type sight struct {
	class *class.Class // nil before the first, and while the class cannot be used
	is    string       // its revision, or why there is none
}

// NewClasses returns the classes of the API server, some of which the volumes
// of an earlier driver use already. It makes no call.
func NewClasses(client *Client, published []volume.Record) *Classes {
	c := &Classes{
		client: client,
		used:   make(map[volume.ID]class.Name),
		seen:   make(map[class.Name]*sight),
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
	return c.asking.ask(ctx, name.String(), func(ctx context.Context) (*class.Class, error) { return c.ask(ctx, name) })
}

// Changes implements class.Source.
func (c *Classes) Changes(ctx context.Context, changed func(class.Name)) error {
	c.changed = changed
	c.watches.run(ctx)
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
		c.watches.drop(name)
		delete(c.seen, name)
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
	if c.seen[name] != nil {
		return
	}
	last := &sight{is: revision}
	c.seen[name] = last
	c.watches.use(name, func(ctx context.Context) {
		watchOne(ctx, c.client.classes(name.Namespace), name.Name, &SecretProviderClass{}, func(object *SecretProviderClass) {
			if c.see(last, object) {
				c.changed(name)
			}
		})
	})
}

// watched returns the class if a watch knows it. One that a watch has not
// found is asked for: it may have been made this moment.
func (c *Classes) watched(name class.Name) (*class.Class, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := c.seen[name]
	if last == nil || last.class == nil || !c.watches.live() {
		return nil, false
	}
	return last.class, true
}

// see notes what a watch saw, nil for a class that is gone, and reports whether
// volumes must hear of it.
func (c *Classes) see(last *sight, object *SecretProviderClass) bool {
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
	was := last.is
	*last = sight{found, is}
	return is != was
}

// ask makes one call for the class.
func (c *Classes) ask(ctx context.Context, name class.Name) (*class.Class, error) {
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
