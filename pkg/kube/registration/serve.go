package registration

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/keymount/keymount/pkg/serve"
)

// grace is how long a call of kubelet may go on once its socket is given up.
const grace = time.Second

// serve serves one socket file. It returns nil when ctx ends, or why another
// file has to be made.
func (s *Server) serve(ctx context.Context) error {
	sock, err := open(s.path)
	if err != nil {
		return err
	}
	s.await(fmt.Errorf("kubelet has not answered at %s yet: is that folder its plugins_registry?", s.path))
	calls := &service{registration: s, refused: make(chan error, 1)}
	server := grpc.NewServer(grpc.UnaryInterceptor(serve.Unary(nil)))
	registerapi.RegisterRegistrationServer(server, calls)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return serve.GRPC(ctx, sock.listener, server, grace) })
	group.Go(func() error {
		defer sock.close()
		return s.attend(ctx, sock, calls.refused)
	})
	return group.Wait()
}

// attend waits until ctx ends, kubelet refuses, or the socket file is gone.
func (s *Server) attend(ctx context.Context, sock *socket, refused <-chan error) error {
	ticker := time.NewTicker(s.opts.poll())
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-refused:
			return err
		case <-sock.events:
		case <-sock.errors: // events were lost
		case <-ticker.C:
		}
		if !sock.there() {
			return fmt.Errorf("the registration socket %s was removed", s.path)
		}
	}
}

// A service answers kubelet at one socket file.
type service struct {
	registerapi.UnimplementedRegistrationServer
	registration *Server
	refused      chan error // holds kubelet's first refusal
}

// GetInfo says who registers, and where its CSI socket is.
func (s *service) GetInfo(context.Context, *registerapi.InfoRequest) (*registerapi.PluginInfo, error) {
	c := &s.registration.config
	return &registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: c.Driver, Endpoint: c.Endpoint, SupportedVersions: c.versions()}, nil
}

// NotifyRegistrationStatus hears what became of it.
func (s *service) NotifyRegistrationStatus(_ context.Context, said *registerapi.RegistrationStatus) (*registerapi.RegistrationStatusResponse, error) {
	if said.GetPluginRegistered() {
		s.registration.note(nil)
		return &registerapi.RegistrationStatusResponse{}, nil
	}
	err := fmt.Errorf("%w, and is asked again; its log may say more than %.500q", errRefused, said.GetError())
	s.registration.note(err)
	select {
	case s.refused <- err:
	default:
	}
	return &registerapi.RegistrationStatusResponse{}, nil
}
