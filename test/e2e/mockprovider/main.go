// Command mockprovider is a provider plugin as others write them for the
// Secrets Store CSI driver: it knows nothing but the v1alpha1 protocol. A
// small HTTP API lets tests decide what it answers, for each namespace of pods
// apart, and see what it was asked.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"google.golang.org/grpc"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
)

func main() {
	dir := flag.String("dir", "/var/run/secrets-store-csi-providers", "`folder` of the sockets")
	names := flag.String("names", "mock", "`names` of the provider, separated by commas")
	address := flag.String("http", ":8080", "`address` of the HTTP API")
	flag.Parse()
	if err := serve(*dir, strings.Split(*names, ","), *address); err != nil {
		log.Fatal(err)
	}
}

// serve serves a socket for each name, and the HTTP API, until a signal ends
// the process.
func serve(dir string, names []string, address string) error {
	p := &provider{namespaces: make(map[string]*namespace)}
	front := &http.Server{Addr: address, Handler: p.api()}
	plugin := grpc.NewServer()
	v1alpha1.RegisterCSIDriverProviderServer(plugin, p)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed := make(chan error, 1+len(names))
	go func() { failed <- front.ListenAndServe() }()
	for _, name := range names {
		lis, err := listen(filepath.Join(dir, name+".sock"))
		if err != nil {
			return err
		}
		go func() { failed <- plugin.Serve(lis) }()
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		plugin.Stop()
		return front.Close()
	}
}

// listen makes a socket in place of one that an earlier process has left.
func listen(socket string) (net.Listener, error) {
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	return net.Listen("unix", socket)
}
