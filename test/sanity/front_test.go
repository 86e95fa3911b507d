package sanity

import (
	"context"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// A front is what the suite talks to: a controller of its own, and the
// driver behind it for everything else.
type front struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	driver *grpc.ClientConn
	after  func(method string, request []byte) // called when the driver has served a Node call

	mu      sync.Mutex
	volumes map[string]int64 // name -> capacity; guarded by mu
}

// server returns the gRPC server of f.
func (f *front) server() *grpc.Server {
	s := grpc.NewServer(grpc.UnknownServiceHandler(f.forward))
	csi.RegisterIdentityServer(s, f)
	csi.RegisterControllerServer(s, f)
	return s
}

// forward passes a call to the driver. An Empty keeps the fields of any
// message as they are on the wire.
func (f *front) forward(_ any, stream grpc.ServerStream) error {
	var request, response emptypb.Empty
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	method, _ := grpc.MethodFromServerStream(stream)
	if err := f.driver.Invoke(stream.Context(), method, &request, &response); err != nil {
		return err
	}
	wire, err := proto.Marshal(&request)
	if err != nil {
		return err
	}
	f.after(method, wire)
	return stream.SendMsg(&response)
}

func (f *front) GetPluginInfo(ctx context.Context, r *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return csi.NewIdentityClient(f.driver).GetPluginInfo(ctx, r)
}

func (f *front) Probe(ctx context.Context, r *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return csi.NewIdentityClient(f.driver).Probe(ctx, r)
}

// GetPluginCapabilities returns the driver's own and the controller service.
func (f *front) GetPluginCapabilities(ctx context.Context, r *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	own, err := csi.NewIdentityClient(f.driver).GetPluginCapabilities(ctx, r)
	if err != nil {
		return nil, err
	}
	for _, c := range own.GetCapabilities() {
		if c.GetService().GetType() == csi.PluginCapability_Service_CONTROLLER_SERVICE {
			return nil, status.Error(codes.Internal, "the driver announces a controller that it does not have")
		}
	}
	own.Capabilities = append(own.Capabilities, &csi.PluginCapability{Type: &csi.PluginCapability_Service_{
		Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE},
	}})
	return own, nil
}

func (f *front) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	return &csi.ControllerGetCapabilitiesResponse{Capabilities: []*csi.ControllerServiceCapability{{
		Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{
			Type: csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME,
		}},
	}}}, nil
}

func (f *front) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if r.GetName() == "" || len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "name or capabilities are missing")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	capacity := r.GetCapacityRange().GetRequiredBytes()
	if old, ok := f.volumes[r.GetName()]; ok && old != capacity {
		return nil, status.Error(codes.AlreadyExists, "the volume exists with another capacity")
	}
	if f.volumes == nil {
		f.volumes = map[string]int64{}
	}
	f.volumes[r.GetName()] = capacity
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{
		VolumeId: r.GetName(), CapacityBytes: capacity, VolumeContext: r.GetParameters(),
	}}, nil
}

func (f *front) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if r.GetVolumeId() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume ID is missing")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.volumes, r.GetVolumeId())
	return &csi.DeleteVolumeResponse{}, nil
}

func (f *front) ValidateVolumeCapabilities(_ context.Context, r *csi.ValidateVolumeCapabilitiesRequest) (*csi.ValidateVolumeCapabilitiesResponse, error) {
	if r.GetVolumeId() == "" || len(r.GetVolumeCapabilities()) == 0 {
		return nil, status.Error(codes.InvalidArgument, "volume ID or capabilities are missing")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.volumes[r.GetVolumeId()]; !ok {
		return nil, status.Error(codes.NotFound, "no such volume")
	}
	return &csi.ValidateVolumeCapabilitiesResponse{Confirmed: &csi.ValidateVolumeCapabilitiesResponse_Confirmed{
		VolumeCapabilities: r.GetVolumeCapabilities(),
	}}, nil
}
