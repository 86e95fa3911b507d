// Package node is the CSI node plugin: it translates between the messages of
// the Container Storage Interface and package publish, and does nothing else.
// It offers the Identity and Node services; there is no controller, because a
// volume of secrets belongs to one pod on one node and is made when that pod
// starts.
package node

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// A Server is the CSI Identity and Node service of one node. Its fields are
// set before it is registered.
type Server struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer

	Name    string // of the driver, as pods and the CSIDriver object use it
	Version string
	NodeID  string // name of this node
	// Root is the folder below which kubelet asks for volumes; no other target
	// is touched. Empty: any.
	Root string

	Publisher publish.Publisher
	Volumes   volume.Store
	// Mounted returns the identity of the mount at a path; zero if there is none.
	Mounted func(path string) (uint64, error)
	// Ready says why the driver cannot publish yet, or nil.
	Ready func(context.Context) error
}

// Register makes r serve the services of s.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	csi.RegisterIdentityServer(r, s)
	csi.RegisterNodeServer(r, s)
}

// Ping asks the CSI driver at the other end of conn for its name.
func Ping(ctx context.Context, conn grpc.ClientConnInterface) error {
	_, err := csi.NewIdentityClient(conn).GetPluginInfo(ctx, &csi.GetPluginInfoRequest{})
	return err
}

// GetPluginInfo implements the CSI Identity service.
func (s *Server) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: s.Name, VendorVersion: s.Version}, nil
}

// GetPluginCapabilities implements the CSI Identity service: there are none.
func (s *Server) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{}, nil
}

// Probe implements the CSI Identity service: ready means that a publish would
// not fail for a reason of the driver's own.
func (s *Server) Probe(ctx context.Context, _ *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{Ready: wrapperspb.Bool(s.Ready(ctx) == nil)}, nil
}

// NodeGetInfo implements the CSI Node service.
func (s *Server) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	return &csi.NodeGetInfoResponse{NodeId: s.NodeID}, nil
}

// NodeGetCapabilities implements the CSI Node service.
func (s *Server) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range []csi.NodeServiceCapability_RPC_Type{
		csi.NodeServiceCapability_RPC_GET_VOLUME_STATS,
		rpcVolumeCondition,
		csi.NodeServiceCapability_RPC_GET_VOLUME_HEALTH,
		csi.NodeServiceCapability_RPC_VOLUME_MOUNT_GROUP,
	} {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}},
		})
	}
	return resp, nil
}

// NodePublishVolume implements the CSI Node service. A volume that is stale is
// published: kubelet would do nothing about it but harm.
func (s *Server) NodePublishVolume(ctx context.Context, req *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	v, err := parsePublish(req)
	if err == nil {
		err = s.checkTarget(v.ID, v.Target)
	}
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	_, err = s.Publisher.Publish(ctx, v)
	var stale *publish.StaleError
	if err != nil && !errors.As(err, &stale) {
		return nil, asStatus(err)
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// NodeUnpublishVolume implements the CSI Node service.
func (s *Server) NodeUnpublishVolume(ctx context.Context, req *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	target := filepath.Clean(req.GetTargetPath())
	err := checkVolume(req.GetVolumeId(), "target path", req.GetTargetPath())
	if err == nil {
		err = s.checkTarget(volume.ID(req.GetVolumeId()), target)
	}
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.Publisher.Unpublish(ctx, volume.ID(req.GetVolumeId()), target); err != nil {
		return nil, asStatus(err)
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeGetVolumeStats implements the CSI Node service: the memory that the
// volume uses, and its condition.
func (s *Server) NodeGetVolumeStats(_ context.Context, req *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	id, path := volume.ID(req.GetVolumeId()), filepath.Clean(req.GetVolumePath())
	if id == "" || req.GetVolumePath() == "" {
		return nil, status.Error(codes.InvalidArgument, "volume ID or volume path is missing")
	}
	rec, ok := s.Volumes.Get(id)
	if !ok || rec.Target != path {
		return nil, status.Errorf(codes.NotFound, "volume %s is not published at %s", id, path)
	}
	if mount, err := s.Mounted(path); err != nil || mount != rec.Mount {
		return nil, status.Errorf(codes.NotFound, "volume %s is no longer mounted at %s", id, path)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return nil, status.Errorf(codes.NotFound, "volume %s: statfs %s: %v", id, path, err)
	}
	block := fs.Bsize
	resp := &csi.NodeGetVolumeStatsResponse{
		Usage: []*csi.VolumeUsage{
			usage(csi.VolumeUsage_BYTES, int64(fs.Blocks)*block, int64(fs.Bavail)*block, int64(fs.Blocks-fs.Bfree)*block),
			usage(csi.VolumeUsage_INODES, int64(fs.Files), int64(fs.Ffree), int64(fs.Files-fs.Ffree)),
		},
	}
	setCondition(resp, rec)
	return resp, nil
}

func usage(unit csi.VolumeUsage_Unit, total, available, used int64) *csi.VolumeUsage {
	return &csi.VolumeUsage{Unit: unit, Total: total, Available: available, Used: used}
}
