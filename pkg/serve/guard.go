package serve

import (
	"fmt"
	"runtime/debug"

	"k8s.io/klog/v2"
)

// A panicError says that a call panicked, without what it panicked with: that
// may quote a secret.
type panicError struct{ kind string }

func (e *panicError) Error() string { return "internal error: panic of type " + e.kind }

// guard calls f. A panic of f is logged by its type and stack and becomes a
// *panicError.
func guard(what string, f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = &panicError{kind: fmt.Sprintf("%T", value)}
			klog.ErrorS(err, "Recovered from a panic", "in", what, "stack", string(debug.Stack()))
		}
	}()
	return f()
}
