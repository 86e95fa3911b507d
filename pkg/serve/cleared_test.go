package serve_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/keymount/keymount/pkg/serve"
)

// echo answers /test.T/Call with what it gets.
var echo = grpc.ServiceDesc{ServiceName: "test.T", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{{
	MethodName: "Call",
	Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		message := new(wrapperspb.BytesValue)
		return message, decode(message)
	},
}}}

// Messages must come through whole, whether or not the other side clears its
// buffers, however large they are and many come at the same time.
func TestClearedBuffersLoseNothing(t *testing.T) {
	plainClient := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	for _, c := range []struct {
		name   string
		server []grpc.ServerOption
		client []grpc.DialOption
	}{
		{"both sides clear theirs", serve.ClearedServer(), serve.ClearedClient()},
		{"the server clears its own", serve.ClearedServer(), nil},
		{"the client clears its own", nil, serve.ClearedClient()},
	} {
		t.Run(c.name, func(t *testing.T) {
			endpoint, path := socketIn(t)
			server := grpc.NewServer(c.server...)
			server.RegisterService(&echo, nil)
			lis := listen(t, endpoint, nil)
			served := make(chan error, 1)
			go func() { served <- server.Serve(lis) }()
			client, err := grpc.NewClient("unix:"+path, append(plainClient, c.client...)...)
			if err != nil {
				t.Fatal(err)
			}
			var calls errgroup.Group
			for i, size := range []int{0, 1, 900, 1024, 1025, 2048, 5000, 16 << 10, 33 << 10, 100_000, 1 << 20, 3 << 20} {
				for round := range 8 {
					calls.Go(func() error {
						sent := &wrapperspb.BytesValue{Value: bytes.Repeat([]byte{byte(i*8 + round + 1)}, size)}
						var got wrapperspb.BytesValue
						if err := client.Invoke(t.Context(), "/test.T/Call", sent, &got); err != nil {
							return err
						}
						if !bytes.Equal(got.GetValue(), sent.GetValue()) {
							return fmt.Errorf("%d bytes came back changed", size)
						}
						return nil
					})
				}
			}
			if err := calls.Wait(); err != nil {
				t.Error(err)
			}
			if err := client.Close(); err != nil {
				t.Error(err)
			}
			server.Stop()
			if err := <-served; err != nil {
				t.Error(err)
			}
		})
	}
}
