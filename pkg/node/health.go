package node

import (
	"context"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/keymount/keymount/pkg/volume"
)

// CSI 1.13 took VolumeCondition, which today's kubelets read, out of the
// specification in favour of NodeGetVolumeHealth, which later ones will call.
// The driver serves both; these are the names of CSI 1.12.
const (
	rpcVolumeCondition = csi.NodeServiceCapability_RPC_Type(4)

	fieldVolumeCondition protowire.Number = 2 // of NodeGetVolumeStatsResponse
	fieldAbnormal        protowire.Number = 1 // of VolumeCondition
	fieldMessage         protowire.Number = 2 // of VolumeCondition
)

// setCondition adds the VolumeCondition of CSI 1.12 to the stats of a volume:
// abnormal means stale.
func setCondition(resp *csi.NodeGetVolumeStatsResponse, rec volume.Record) {
	var condition []byte
	if !rec.Stale.IsZero() {
		condition = protowire.AppendTag(condition, fieldAbnormal, protowire.VarintType)
		condition = protowire.AppendVarint(condition, 1)
	}
	condition = protowire.AppendTag(condition, fieldMessage, protowire.BytesType)
	condition = protowire.AppendString(condition, health(rec))
	field := protowire.AppendTag(nil, fieldVolumeCondition, protowire.BytesType)
	resp.ProtoReflect().SetUnknown(protowire.AppendBytes(field, condition))
}

// NodeGetVolumeHealth implements the CSI Node service: a stale volume is
// degraded.
func (s *Server) NodeGetVolumeHealth(_ context.Context, req *csi.NodeGetVolumeHealthRequest) (*csi.NodeGetVolumeHealthResponse, error) {
	id := req.GetVolumeId()
	if id == "" {
		return nil, status.Error(codes.InvalidArgument, "volume ID is missing")
	}
	rec, ok := s.Volumes.Get(volume.ID(id))
	if path := req.GetVolumePublishPath(); !ok || path != "" && path != rec.Target {
		return nil, status.Errorf(codes.NotFound, "volume %s is not published at %q", id, path)
	}
	found := &csi.VolumeHealth{VolumeId: id}
	if !rec.Stale.IsZero() {
		found.HealthStatuses = []*csi.VolumeHealth_VolumeHealthEntry{{
			Status: csi.VolumeHealthErrorType_DEGRADED, Reason: "Stale" + rec.Stale.Reason, Message: health(rec),
		}}
	}
	return &csi.NodeGetVolumeHealthResponse{VolumeHealth: found}, nil
}

// health says how fresh a volume is, and why it is not.
func health(rec volume.Record) string {
	if rec.Stale.IsZero() {
		return "fresh as of " + stamp(rec.Refreshed)
	}
	return fmt.Sprintf("stale since %s (%s, %d failures in a row; last success %s): %s",
		stamp(rec.Stale.Since), rec.Stale.Reason, rec.Stale.Failures, stamp(rec.Refreshed), rec.Stale.Message)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
