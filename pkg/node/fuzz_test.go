package node_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/node"
)

// FuzzUnpublishRequest gives arbitrary IDs and paths: they are refused, or
// nothing is unmounted but below kubelet's folder.
func FuzzUnpublishRequest(f *testing.F) {
	const root = "/var/lib/kubelet/pods"
	for _, target := range []string{"", "/", root, root + "/", root + "/1/x", root + "/../x", root + "x/1", root + "/./1", "relative", root + "/1\x00", "//var/lib/kubelet/pods/1"} {
		f.Add("id", target)
	}
	f.Add("", root+"/1")
	f.Add(strings.Repeat("i", 2000), root+"/1")
	f.Fuzz(func(t *testing.T, id, target string) {
		pub := &recorder{}
		_, err := (&node.Server{Publisher: pub, Root: root}).NodeUnpublishVolume(context.Background(), &csi.NodeUnpublishVolumeRequest{VolumeId: id, TargetPath: target})
		if err != nil {
			if status.Code(err) != codes.InvalidArgument || len(pub.unpublished) > 0 {
				t.Errorf("error = %v after %q, want InvalidArgument and nothing done", err, pub.unpublished)
			}
			return
		}
		if len(pub.unpublished) != 1 {
			t.Fatalf("unpublished %q, want one", pub.unpublished)
		}
		path := strings.TrimPrefix(pub.unpublished[0], id+" ")
		if id == "" || !strings.HasPrefix(path, root+"/") || filepath.Clean(path) != path {
			t.Errorf("of %q at %q is unpublished %q", id, target, path)
		}
	})
}
