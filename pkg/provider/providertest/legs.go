package providertest

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider"
)

// legs returns the ways in which every case reaches the provider.
func legs() []leg { return []leg{{"direct", direct}, {"socket", overSocket}} }

type leg struct {
	name    string
	connect connector
}

// A connector puts something between the suite and the provider.
type connector func(t testing.TB, p provider.Provider) provider.Provider

func direct(_ testing.TB, p provider.Provider) provider.Provider { return p }

// overSocket serves p on a unix socket and returns the provider that a driver
// sees there.
func overSocket(t testing.TB, p provider.Provider) provider.Provider {
	t.Helper()
	folder, err := os.MkdirTemp("", "suite") // t.TempDir is too long a name for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	listener, err := net.Listen("unix", filepath.Join(folder, "suite.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error, 1)
	go func() { served <- plugin.Serve(ctx, listener, p, nil) }()
	sockets := plugin.NewDir([]string{folder}, nil)
	t.Cleanup(func() {
		if err := sockets.Close(); err != nil {
			t.Errorf("close the connection: %v", err)
		}
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	connected, err := sockets.Lookup("suite")
	if err != nil {
		t.Fatal(err)
	}
	return connected
}
