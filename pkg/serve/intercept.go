package serve

import (
	"context"
	"errors"
	"path"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/trace"
)

// UnaryOptions tune Unary.
type UnaryOptions struct {
	Timeout time.Duration // of calls whose peer set no deadline; zero means two minutes, as kubelet's
}

func (o *UnaryOptions) timeout() time.Duration {
	if o == nil || o.Timeout == 0 {
		return 2 * time.Minute
	}
	return o.Timeout
}

// Unary returns an interceptor that gives every call a deadline, turns a panic
// into codes.Internal, and writes one log line per call: method, code,
// duration, and the error of one that failed. Successes are logged at V(2),
// those of calls that kubelet repeats for ever at V(4).
func Unary(opts *UnaryOptions) grpc.UnaryServerInterceptor {
	timeout := opts.timeout()
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
		if _, ok := ctx.Deadline(); !ok {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, timeout)
			defer cancel()
		}
		ctx = trace.Begin(ctx)
		start := time.Now()
		err = guard(info.FullMethod, func() (err error) {
			resp, err = handler(ctx, req)
			return err
		})
		return resp, finish(ctx, info.FullMethod, time.Since(start), err)
	}
}

// Stream returns the interceptor of streams that matches Unary. A stream gets
// no deadline: it lasts as long as its peer wants.
func Stream() grpc.StreamServerInterceptor {
	return func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		start := time.Now()
		err := guard(info.FullMethod, func() error { return handler(srv, stream) })
		return finish(stream.Context(), info.FullMethod, time.Since(start), err)
	}
}

// finish logs a call that ended and returns its error as the peer gets it.
func finish(ctx context.Context, method string, duration time.Duration, err error) error {
	if panicked := (*panicError)(nil); errors.As(err, &panicked) {
		err = status.Error(codes.Internal, panicked.Error())
	}
	switch code := codeOf(err); code {
	case codes.OK:
		klog.V(verbosity(method)).InfoS("Call served", "method", method, "code", code, "duration", duration)
	case codes.Canceled: // the peer has gone, or this process goes
		klog.V(2).InfoS("Call ended early", "method", method, "code", code, "duration", duration)
	default:
		klog.ErrorS(err, "Call failed", "method", method, "code", code, "duration", duration, "trace", trace.ID(ctx))
	}
	return err
}

// codeOf returns the code with which grpc answers err.
func codeOf(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		return s.Code()
	}
	return status.FromContextError(err).Code()
}

// verbosity returns the level at which a success of the method is logged.
func verbosity(method string) klog.Level {
	switch path.Base(method) {
	case "Probe", "GetPluginInfo", "GetPluginCapabilities", "NodeGetInfo", "NodeGetCapabilities", "NodeGetVolumeStats", "Version":
		return 4
	default:
		return 2
	}
}
