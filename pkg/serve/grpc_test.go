package serve_test

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/keymount/keymount/pkg/serve"
)

// A server serves the method /test.T/Call, whose calls wait as handle does.
type server struct {
	entered chan struct{} // one per call that begins
	left    chan struct{} // one per call that ended and was logged
	stop    context.CancelFunc
	served  chan error
	client  *grpc.ClientConn
}

func start(t *testing.T, grace time.Duration, handle func(context.Context) error) *server {
	t.Helper()
	captureLog(t, "0")
	endpoint, path := socketIn(t)
	ctx, stop := context.WithCancel(t.Context())
	s := &server{entered: make(chan struct{}, 1), left: make(chan struct{}, 1), stop: stop, served: make(chan error, 1)}
	lis := listen(t, endpoint, nil)
	g := grpc.NewServer(grpc.UnaryInterceptor(serve.Unary(nil)))
	g.RegisterService(&grpc.ServiceDesc{ServiceName: "test.T", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
		MethodName: "Call",
		Handler: func(_ any, ctx context.Context, decode func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			if err := decode(new(emptypb.Empty)); err != nil {
				return nil, err
			}
			defer func() { s.left <- struct{}{} }()
			info := &grpc.UnaryServerInfo{FullMethod: "/test.T/Call"}
			return intercept(ctx, nil, info, func(ctx context.Context, _ any) (any, error) {
				s.entered <- struct{}{}
				return new(emptypb.Empty), handle(ctx)
			})
		},
	}}}, nil)
	go func() { s.served <- serve.GRPC(ctx, lis, g, grace) }()
	client, err := grpc.NewClient("unix:"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	s.client = client
	t.Cleanup(func() { stop(); _ = client.Close() })
	return s
}

// call makes a call; its error is sent to the channel.
func (s *server) call(t *testing.T) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- s.client.Invoke(t.Context(), "/test.T/Call", new(emptypb.Empty), new(emptypb.Empty)) }()
	return done
}

func TestGRPCServesUntilTheContextEnds(t *testing.T) {
	s := start(t, time.Minute, func(context.Context) error { return nil })
	if err := <-s.call(t); err != nil {
		t.Fatalf("call: %v", err)
	}
	s.stop()
	if err := <-s.served; err != nil {
		t.Errorf("GRPC = %v, want nil", err)
	}
}

func TestGRPCLetsCallsFinishWithinTheGrace(t *testing.T) {
	release := make(chan struct{})
	s := start(t, time.Minute, func(context.Context) error { <-release; return nil })
	done := s.call(t)
	<-s.entered
	s.stop()
	close(release)
	if err := <-done; err != nil {
		t.Errorf("the call that ran at the stop: %v, want success", err)
	}
	if err := <-s.served; err != nil {
		t.Errorf("GRPC = %v, want nil", err)
	}
}

// The upstream driver stops gracefully without a deadline: a provider that
// hangs keeps it from stopping (B26).
func TestB26GracefulStopIsBounded(t *testing.T) {
	s := start(t, 20*time.Millisecond, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
	done := s.call(t)
	<-s.entered
	s.stop()
	if err := <-s.served; err != nil {
		t.Errorf("GRPC = %v, want nil: the call reacted to its context", err)
	}
	if err := <-done; status.Code(err) != codes.Unavailable {
		t.Errorf("the call that outlived the grace: %v, want Unavailable", err)
	}
}

func TestB26StopIsBoundedEvenIfACallIgnoresItsContext(t *testing.T) {
	release := make(chan struct{})
	s := start(t, 20*time.Millisecond, func(context.Context) error { <-release; return nil })
	done := s.call(t)
	<-s.entered
	s.stop()
	if err := <-s.served; !errors.Is(err, serve.ErrAbandoned) {
		t.Errorf("GRPC = %v, want ErrAbandoned", err)
	}
	close(release)
	<-s.left
	<-done
}

// The upstream driver logs the error of Serve and stays up without serving (B26).
func TestB26TheErrorOfServeIsReturned(t *testing.T) {
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	if err := serve.GRPC(t.Context(), lis, grpc.NewServer(), time.Minute); !errors.Is(err, net.ErrClosed) {
		t.Errorf("GRPC on a closed listener = %v, want net.ErrClosed", err)
	}
}

func TestGRPCThatIsStoppedBeforeItStarts(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	endpoint, _ := socketIn(t)
	if err := serve.GRPC(ctx, listen(t, endpoint, nil), grpc.NewServer(), time.Minute); err != nil {
		t.Errorf("GRPC = %v, want nil", err)
	}
}
