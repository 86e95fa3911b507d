package driver

import (
	"context"

	"go.opentelemetry.io/otel/attribute"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/trace"
	"github.com/keymount/keymount/pkg/volume"
)

// A traced publisher makes a span of what happens to a volume, be it that
// kubelet called or that a refresh was due.
type traced struct {
	next    publish.Publisher
	volumes volume.Store
}

// Publish implements publish.Publisher.
func (t *traced) Publish(ctx context.Context, v volume.Volume) (publish.Result, error) {
	ctx, end := trace.Span(ctx, "publish", about(v.ID, v.Class, v.Pod)...)
	res, err := t.next.Publish(ctx, v)
	end(err)
	return res, err
}

// Refresh implements publish.Publisher.
func (t *traced) Refresh(ctx context.Context, id volume.ID) (publish.Result, error) {
	ctx, end := trace.Span(trace.Begin(ctx), "refresh", t.about(id)...)
	res, err := t.next.Refresh(ctx, id)
	end(err)
	return res, err
}

// Unpublish implements publish.Publisher.
func (t *traced) Unpublish(ctx context.Context, id volume.ID, target string) error {
	ctx, end := trace.Span(ctx, "unpublish", t.about(id)...)
	err := t.next.Unpublish(ctx, id, target)
	end(err)
	return err
}

func (t *traced) about(id volume.ID) []attribute.KeyValue {
	rec, _ := t.volumes.Get(id)
	return about(id, rec.Class, rec.Pod)
}

func about(id volume.ID, name class.Name, pod provider.Pod) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.String("keymount.volume", string(id)),
		attribute.String("keymount.class", name.String()),
		attribute.String("k8s.namespace.name", pod.Namespace),
		attribute.String("k8s.pod.name", pod.Name),
		attribute.String("k8s.pod.uid", pod.UID),
	}
}

// tracedFetch is the middleware that makes a span of what one volume wants of a
// provider. The call that answers it may belong to the trace of another volume.
func tracedFetch(name string, next provider.Provider) provider.Provider { return &wanting{next, name} }

type wanting struct {
	provider.Provider
	name string
}

// Fetch implements provider.Provider.
func (w *wanting) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	ctx, end := trace.Span(ctx, "fetch", attribute.String("keymount.provider", w.name))
	bundle, err := w.Provider.Fetch(ctx, req)
	end(err)
	return bundle, err
}

// Unwrap returns the provider that is asked.
func (w *wanting) Unwrap() provider.Provider { return w.Provider }
