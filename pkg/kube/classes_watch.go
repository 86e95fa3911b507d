package kube

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/keymount/keymount/pkg/class"
)

// watchClass calls saw with the class as it is, and again whenever it changes,
// nil once it is gone, until ctx ends. It outlives the API server's absence.
func (c *Client) watchClass(ctx context.Context, name class.Name, saw func(*SecretProviderClass)) {
	classes := c.classes(name.Namespace)
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, name.Name).String()
	update := func(object any) {
		if found, ok := object.(*SecretProviderClass); ok {
			saw(found)
		}
	}
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, opts metav1.ListOptions) (runtime.Object, error) {
				opts.FieldSelector = selector
				return classes.List(ctx, opts)
			},
			WatchFuncWithContext: func(ctx context.Context, opts metav1.ListOptions) (apiwatch.Interface, error) {
				opts.FieldSelector = selector
				return classes.Watch(ctx, opts)
			},
		},
		ObjectType: &SecretProviderClass{},
		Transform: func(object any) (any, error) {
			if found, ok := object.(*SecretProviderClass); ok {
				found.ManagedFields, found.Annotations = nil, nil // kubectl keeps a copy of the object there
			}
			return object, nil
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    update,
			UpdateFunc: func(_, object any) { update(object) },
			DeleteFunc: func(any) { saw(nil) },
		},
	})
	controller.RunWithContext(ctx)
}
