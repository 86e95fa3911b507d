package plugin

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/plugin/keymountv1"
	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// A service answers v1alpha1 calls with a Provider.
type service struct {
	v1alpha1.UnimplementedCSIDriverProviderServer
	provider provider.Provider
	opts     *ServeOptions
}

// Version says who we are.
func (s *service) Version(context.Context, *v1alpha1.VersionRequest) (*v1alpha1.VersionResponse, error) {
	return &v1alpha1.VersionResponse{
		Version:        protocol,
		RuntimeName:    s.opts.runtimeName(),
		RuntimeVersion: s.opts.version(),
	}, nil
}

// Mount makes one Fetch.
func (s *service) Mount(ctx context.Context, message *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	req, err := decodeRequest(message, md)
	if err != nil {
		return nil, failure(nil, err)
	}
	var bundle *provider.Bundle
	secret.Do(func() { bundle, err = s.provider.Fetch(ctx, req) })
	if err != nil {
		if err := grpc.SetTrailer(ctx, missing(req, err)); err != nil {
			return nil, status.Error(codes.Internal, "the refusal's metadata cannot be sent")
		}
		return nil, failure(req, err)
	}
	if err := bundle.Validate(); err != nil { // upstream's driver might act on it
		return nil, failure(req, fmt.Errorf("the provider's bundle cannot be sent: %w", err))
	}
	if bundle.Unchanged && !bundle.Versions.Equal(req.Held.Versions) {
		// The driver would take the absence of files for its own content.
		return nil, status.Error(codes.Internal, "the provider calls versions unchanged that the volume does not hold")
	}
	pairs, err := replyMetadata(bundle)
	if err == nil {
		err = grpc.SetHeader(ctx, metadata.Pairs(pairs...))
	}
	if err != nil {
		return nil, status.Error(codes.Internal, "the reply's metadata cannot be sent")
	}
	return encodeReply(bundle, req.Mode), nil
}

// failure turns a Provider's error into a status. The text is trusted to hold
// no secret of the backend; the request's own are masked once more.
func failure(req *provider.Request, err error) error {
	return status.Error(code(err), clean(err.Error(), bearers(req)))
}

// notifications answers Notifier calls.
type notifications struct {
	keymountv1.UnimplementedNotifierServer
	notifier provider.Notifier
	ending   context.Context // of Serve: a stream must not outlast the grace period
}

// Changes streams changes until the peer, the provider or Serve ends.
func (n *notifications) Changes(_ *keymountv1.ChangesRequest, stream grpc.ServerStreamingServer[keymountv1.Change]) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(n.ending, cancel)()
	var sending sync.Mutex // a stream takes one sender at a time
	err := n.notifier.Changes(ctx, func(objectID string) {
		sending.Lock()
		defer sending.Unlock()
		if err := stream.Send(&keymountv1.Change{ObjectId: objectID}); err != nil {
			cancel()
		}
	})
	switch {
	case n.ending.Err() != nil:
		return status.Error(codes.Canceled, "the provider is shutting down")
	case err == nil:
		return nil
	default:
		return failure(nil, err)
	}
}

// releases answers Releaser calls.
type releases struct {
	keymountv1.UnimplementedReleaserServer
	releaser provider.Releaser
}

// Release ends a lease.
func (r *releases) Release(ctx context.Context, message *keymountv1.ReleaseRequest) (*keymountv1.ReleaseResponse, error) {
	if err := r.releaser.Release(ctx, provider.Lease{ID: message.GetLeaseId()}); err != nil {
		return nil, failure(nil, err)
	}
	return &keymountv1.ReleaseResponse{}, nil
}
