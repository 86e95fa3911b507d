package kube

import (
	"context"
	"fmt"
	"sync"

	"golang.org/x/sync/singleflight"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/keymount/keymount/pkg/provider"
)

// watches runs one watch for each object in use, while run runs. The zero value
// has none.
type watches[K comparable] struct {
	mu      sync.Mutex
	used    map[K]*watch
	ctx     context.Context // of run; nil before and after
	running sync.WaitGroup  // only added to while ctx is set
}

// A watch is guarded by watches.mu.
type watch struct {
	run  func(context.Context) // until its context ends
	stop context.CancelFunc
}

// run runs the watches until ctx ends, and returns when they have ended.
func (w *watches[K]) run(ctx context.Context) {
	w.mu.Lock()
	w.ctx = ctx
	for _, one := range w.used {
		w.start(one)
	}
	w.mu.Unlock()
	<-ctx.Done()
	w.mu.Lock()
	w.ctx = nil
	w.mu.Unlock()
	w.running.Wait()
}

// live reports whether watches run.
func (w *watches[K]) live() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ctx != nil && w.ctx.Err() == nil
}

// use has the object of a key watched by run, unless it has a watch already.
func (w *watches[K]) use(key K, run func(context.Context)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.used == nil {
		w.used = make(map[K]*watch)
	}
	if w.used[key] != nil {
		return
	}
	one := &watch{run: run, stop: func() {}}
	w.used[key] = one
	if w.ctx != nil {
		w.start(one)
	}
}

// drop ends the watch of a key. What it is about to tell, it may still tell.
func (w *watches[K]) drop(key K) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if one := w.used[key]; one != nil {
		one.stop()
		delete(w.used, key)
	}
}

// start needs mu and ctx.
func (w *watches[K]) start(one *watch) {
	ctx, stop := context.WithCancel(w.ctx)
	one.stop = stop
	w.running.Go(func() { one.run(ctx) })
}

// A lister has objects of one kind.
type lister[L runtime.Object] interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (apiwatch.Interface, error)
}

// watchOne calls saw with the object of a name as it is, and again whenever it
// changes, nil once it is gone, until ctx ends. It outlives the API server's
// absence.
func watchOne[T interface {
	runtime.Object
	metav1.Object
}, L runtime.Object](ctx context.Context, from lister[L], name string, kind T, saw func(T)) {
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	update := func(object any) {
		if found, ok := object.(T); ok {
			saw(found)
		}
	}
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
				opts.FieldSelector = selector
				return from.List(ctx, opts)
			},
			WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (apiwatch.Interface, error) {
				opts.FieldSelector = selector
				return from.Watch(ctx, opts)
			},
		},
		ObjectType: kind,
		Transform: func(object any) (any, error) {
			if found, ok := object.(T); ok {
				found.SetManagedFields(nil)
				delete(found.GetAnnotations(), corev1.LastAppliedConfigAnnotation) // kubectl keeps a copy of the object there
			}
			return object, nil
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    update,
			UpdateFunc: func(_, object any) { update(object) },
			DeleteFunc: func(any) {
				var none T
				saw(none)
			},
		},
	})
	controller.RunWithContext(ctx)
}

// asking makes one call for all who ask the same at the same time.
type asking[T any] struct{ group singleflight.Group }

// ask returns what call does. It does not wait longer than its own caller; the
// call, for which others may wait, goes on.
func (a *asking[T]) ask(ctx context.Context, key string, call func(context.Context) (T, error)) (T, error) {
	answer := a.group.DoChan(key, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callTimeout)
		defer cancel()
		return call(ctx)
	})
	select {
	case <-ctx.Done():
		var none T
		return none, fmt.Errorf("ask the API server: %w: %w", ctx.Err(), provider.ErrUnavailable)
	case a := <-answer:
		found, _ := a.Val.(T)
		return found, a.Err
	}
}
