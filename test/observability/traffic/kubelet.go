package traffic

import (
	"context"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// publish calls the driver as kubelet does when a pod starts.
func (n *Node) publish(ctx context.Context, pod, class string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := n.driver.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: pod, TargetPath: n.target(pod), Readonly: true,
		VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
		VolumeContext: map[string]string{
			"secretProviderClass": class, "csi.storage.k8s.io/ephemeral": "true", "csi.storage.k8s.io/serviceAccount.name": "web",
			"csi.storage.k8s.io/pod.namespace": "shop", "csi.storage.k8s.io/pod.name": pod, "csi.storage.k8s.io/pod.uid": "uid-" + pod,
		},
	})
	return err
}

// unpublish calls the driver as kubelet does when a pod ends.
func (n *Node) unpublish(ctx context.Context, pod string) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := n.driver.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: pod, TargetPath: n.target(pod)})
	return err
}

func (n *Node) target(pod string) string { return filepath.Join(n.dir, "pods", pod) }

// litter puts a file where a volume would be, which unpublish refuses to remove.
func (n *Node) litter(pod string) error {
	if err := os.MkdirAll(n.target(pod), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.target(pod), "precious"), nil, 0o644)
}
