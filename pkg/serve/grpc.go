package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/grpc"
)

// ErrAbandoned: calls that ignored the end of their context were still running
// when serving ended.
var ErrAbandoned = errors.New("calls did not end")

// reactTimeout is how long calls get to react to the end of their context.
const reactTimeout = time.Second

// GRPC serves s on lis until ctx ends, or serving fails, which is an error.
// Then it takes no more calls, gives those that run the grace to finish,
// ends the context of the rest, and returns: a call that ignores its context
// for another second is left behind, and the error wraps ErrAbandoned.
func GRPC(ctx context.Context, lis net.Listener, s *grpc.Server, grace time.Duration) error {
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	select {
	case err := <-served:
		s.Stop()
		if err != nil {
			return fmt.Errorf("serve on %s: %w", lis.Addr(), err)
		}
		return nil
	case <-ctx.Done():
	}
	if err := stop(s, grace); err != nil {
		return fmt.Errorf("stop serving on %s: %w", lis.Addr(), err)
	}
	if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
		return fmt.Errorf("serve on %s: %w", lis.Addr(), err)
	}
	return nil
}

// stop ends s within grace and reactTimeout. Neither GracefulStop nor a Stop
// that runs beside it returns before the last handler has.
func stop(s *grpc.Server, grace time.Duration) error {
	graceful, forced := make(chan struct{}), make(chan struct{})
	go func() { s.GracefulStop(); close(graceful) }()
	if within(grace, graceful) {
		return nil
	}
	go func() { s.Stop(); close(forced) }()
	if within(reactTimeout, graceful, forced) {
		return nil
	}
	return fmt.Errorf("after %v: %w", grace+reactTimeout, ErrAbandoned)
}

// within reports whether all of done are closed before d has passed.
func within(d time.Duration, done ...<-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for _, c := range done {
		select {
		case <-c:
		case <-timer.C:
			return false
		}
	}
	return true
}
