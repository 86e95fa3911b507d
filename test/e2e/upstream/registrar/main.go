// Command registrar tells kubelet of a CSI driver that does not do so itself.
// It stands in for the sidecar node-driver-registrar, which comes as an image
// only.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

// A registrar answers kubelet's question who is behind a socket.
type registrar struct{ driver *registration.PluginInfo }

// GetInfo implements registration.RegistrationServer.
func (r registrar) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return r.driver, nil
}

// NotifyRegistrationStatus implements registration.RegistrationServer.
func (r registrar) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	log.Printf("kubelet: registered %t %s", status.PluginRegistered, status.Error)
	return &registration.RegistrationStatusResponse{}, nil
}

func main() {
	name := flag.String("name", "secrets-store.csi.k8s.io", "the driver's `name`")
	endpoint := flag.String("endpoint", "", "the driver's `socket` as kubelet sees it")
	registry := flag.String("registry", "/registration", "kubelet's plugins_registry `folder` as this process sees it")
	flag.Parse()

	socket := *registry + "/" + *name + "-reg.sock"
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, registrar{&registration.PluginInfo{
		Type: registration.CSIPlugin, Name: *name, Endpoint: *endpoint, SupportedVersions: []string{"1.0.0"},
	}})
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	go func() { <-stop; server.Stop() }()
	if err := server.Serve(listener); err != nil {
		log.Fatal(err)
	}
}
