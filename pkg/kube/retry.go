package kube

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
)

const (
	// minRetry and maxRetry bound the wait after a call to the API server that
	// failed, where many wait, one for each volume. maxPause is the bound where
	// all else waits for one call.
	minRetry = time.Second
	maxRetry = 5 * time.Minute
	maxPause = 30 * time.Second
)

// retry calls do until it succeeds, and reports false only when ctx ends
// before that. The first failure is logged as what it is.
func retry(ctx context.Context, what string, do func() error) bool {
	backoff := wait.Backoff{Duration: minRetry, Factor: 1.5, Jitter: 0.1, Steps: 20, Cap: maxPause}
	told := false
	err := backoff.DelayFunc().Until(ctx, true, true, func(ctx context.Context) (bool, error) {
		err := do()
		if err != nil && ctx.Err() == nil && !told {
			told = true
			klog.ErrorS(err, what+"; it is tried again")
		}
		return err == nil, nil
	})
	return err == nil
}

// newQueue returns a queue of work that is tried again when it fails.
func newQueue[T comparable]() workqueue.TypedRateLimitingInterface[T] {
	return workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[T](minRetry, maxRetry))
}

// work does what is in the queue, until it is shut down. What fails comes again
// later. It is logged once, and when the API server fails all that is in the
// queue, only the first of it.
func work[T comparable](ctx context.Context, queue workqueue.TypedRateLimitingInterface[T], what string, do func(context.Context, T) error) {
	told := false
	for {
		item, shutdown := queue.Get()
		if shutdown {
			return
		}
		err := do(ctx, item)
		switch {
		case err == nil:
			told = false
			queue.Forget(item)
		case ctx.Err() == nil:
			if told || queue.NumRequeues(item) > 0 {
				klog.V(2).InfoS(what+" failed, too", "item", item, "reason", err)
			} else {
				told = true
				klog.ErrorS(err, what+" failed; it is tried again", "item", item)
			}
			queue.AddRateLimited(item)
		}
		queue.Done(item)
	}
}
