package plugin

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/plugin/keymountv1"
	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
)

// protocol is the version that both sides of v1alpha1 say they speak.
const protocol = "v1alpha1"

// A client is the provider behind a socket.
type client struct {
	dir  *Dir
	name string
}

var (
	_ provider.Provider = (*client)(nil)
	_ provider.Notifier = (*client)(nil)
	_ provider.Releaser = (*client)(nil)
)

// Fetch makes one Mount call. It is never repeated: the first attempt may
// have issued a lease.
func (c *client) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	message, err := encodeRequest(req, c.dir.opts.withholdVersions())
	if err != nil {
		return nil, c.failed(req.Class, err)
	}
	pairs, err := requestMetadata(req)
	if err != nil {
		return nil, c.failed(req.Class, err)
	}
	var reply *v1alpha1.MountResponse
	var header, trailer metadata.MD
	err = c.call(ctx, func(l *link) error {
		ctx := metadata.AppendToOutgoingContext(ctx, pairs...)
		reply, err = v1alpha1.NewCSIDriverProviderClient(l.conn).Mount(ctx, message, grpc.Header(&header), grpc.Trailer(&trailer))
		return c.remote(ctx, req, err)
	})
	if err != nil {
		return nil, withMissing(req, err, trailer)
	}
	if label := reply.GetError().GetCode(); label != "" {
		return nil, c.labelled(req, label)
	}
	bundle, err := decodeReply(reply, metadata.Join(header, trailer), req.Mode)
	if err != nil {
		return nil, c.unusable(req, err)
	}
	maskWarnings(bundle.Warnings, bearers(req))
	return bundle, nil
}

// Changes reports the provider's changes until ctx ends, the provider ends,
// or a call finds that its socket was replaced.
func (c *client) Changes(ctx context.Context, changed func(objectID string)) error {
	return c.call(ctx, func(l *link) error {
		streaming, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(l.retired, cancel)()
		stream, err := keymountv1.NewNotifierClient(l.conn).Changes(streaming, &keymountv1.ChangesRequest{})
		for err == nil {
			var change *keymountv1.Change
			if change, err = stream.Recv(); err == nil {
				changed(change.GetObjectId())
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return c.failed("", fmt.Errorf("it tells of no more changes: %w", provider.ErrUnavailable))
		case l.retired.Err() != nil && ctx.Err() == nil:
			return c.failed("", fmt.Errorf("the connection was given up: %w", provider.ErrUnavailable))
		default:
			return c.optional(ctx, "tell of changes", err)
		}
	})
}

// Release ends the lease. Nothing is to be done for the zero Lease.
func (c *client) Release(ctx context.Context, lease provider.Lease) error {
	if lease.ID == "" {
		return nil
	}
	return c.call(ctx, func(l *link) error {
		_, err := keymountv1.NewReleaserClient(l.conn).Release(ctx, &keymountv1.ReleaseRequest{LeaseId: lease.ID})
		return c.optional(ctx, "release leases", err)
	})
}

// check makes one Version call.
func (c *client) check(ctx context.Context) error {
	return c.call(ctx, func(l *link) error {
		_, err := v1alpha1.NewCSIDriverProviderClient(l.conn).Version(ctx, &v1alpha1.VersionRequest{Version: protocol})
		if status.Code(err) == codes.Unimplemented { // that is an answer
			return nil
		}
		return c.remote(ctx, nil, err)
	})
}

// call runs f with a connection that is ready.
func (c *client) call(ctx context.Context, f func(*link) error) error {
	l, err := c.dir.acquire(c.name)
	if err != nil {
		return err
	}
	if err := l.ready(ctx, c.dir.opts.dialWait()); err != nil {
		c.dir.release(l, true)
		return err
	}
	defer c.dir.release(l, false)
	return f(l)
}

// optional is remote for the services that a provider need not have.
func (c *client) optional(ctx context.Context, what string, err error) error {
	if status.Code(err) == codes.Unimplemented {
		return fmt.Errorf("provider %q does not %s: %w", c.name, what, errors.ErrUnsupported)
	}
	return c.remote(ctx, nil, err)
}
