package plugin

import (
	"context"
	"net"
	"time"

	"google.golang.org/grpc"

	"github.com/keymount/keymount/pkg/plugin/keymountv1"
	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/serve"
	"github.com/keymount/keymount/pkg/trace"
)

// ServeOptions adjust Serve.
type ServeOptions struct {
	// AllowedUIDs are the users whose processes may connect to a unix socket;
	// nil means any. Others are hung up on before a byte is read.
	AllowedUIDs []uint32
	// MaxSendMsgSize limits a reply, in bytes. Default: no limit; the driver
	// has one of its own.
	MaxSendMsgSize int
	// Grace is how long running calls may go on after the end. Default: 5 s.
	Grace time.Duration
	// RuntimeName is the provider's name, for the driver's logs. Default: "keymount".
	RuntimeName string
	// Version is the provider's own, a semantic version. Default: "0.0.0".
	Version string
}

func (o *ServeOptions) grace() time.Duration {
	if o == nil || o.Grace <= 0 {
		return 5 * time.Second
	}
	return o.Grace
}

func (o *ServeOptions) runtimeName() string {
	if o == nil || o.RuntimeName == "" {
		return "keymount"
	}
	return o.RuntimeName
}

func (o *ServeOptions) version() string {
	if o == nil || o.Version == "" {
		return "0.0.0"
	}
	return o.Version
}

func (o *ServeOptions) guard(lis net.Listener) net.Listener {
	if o == nil || o.AllowedUIDs == nil {
		return lis
	}
	return &guarded{lis, o.AllowedUIDs}
}

// Serve answers the driver's calls on lis with p, until ctx ends or lis
// fails; it closes lis. It ends and logs as serve.GRPC and serve.Unary do. The
// driver may be Keymount's or upstream's. If p is a provider.Notifier or provider.Releaser, itself or
// through Unwrap, it is served as such too.
func Serve(ctx context.Context, lis net.Listener, p provider.Provider, opts *ServeOptions) error {
	options := append(serve.ClearedServer(),
		trace.Server(),
		grpc.UnaryInterceptor(serve.Unary(nil)),
		grpc.StreamInterceptor(serve.Stream()),
	)
	if opts != nil && opts.MaxSendMsgSize > 0 {
		options = append(options, grpc.MaxSendMsgSize(opts.MaxSendMsgSize))
	}
	server := grpc.NewServer(options...)
	s := &service{provider: p, opts: opts}
	v1alpha1.RegisterCSIDriverProviderServer(server, s)
	if notifier, ok := provider.As[provider.Notifier](p); ok {
		keymountv1.RegisterNotifierServer(server, &notifications{notifier: notifier, ending: ctx})
	}
	if releaser, ok := provider.As[provider.Releaser](p); ok {
		keymountv1.RegisterReleaserServer(server, &releases{releaser: releaser})
	}
	return serve.GRPC(ctx, opts.guard(lis), server, opts.grace())
}
