package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// A volume is one pod's, of one peer.
type volume struct {
	peer             *peer
	namespace, class string
	pod, account     string
	uid              string
}

// newVolume returns a volume of a pod that was never seen before, and unless
// another one is named, of a service account of its own.
func (p *peer) newVolume(class, account string) *volume {
	p.world.serial++
	v := &volume{peer: p, namespace: p.namespace, class: class, account: account, pod: fmt.Sprintf("web-%06d", p.world.serial)}
	v.uid = fmt.Sprintf("3c1b8a70-0000-4000-8000-%012d", p.world.serial)
	if account == "" {
		v.account = "account-of-" + v.pod
	}
	return v
}

// dir is the pod's folder, which kubelet makes.
func (v *volume) dir() string { return filepath.Join(v.peer.dir, "kubelet", "pods", v.uid) }

// target is where the volume is mounted.
func (v *volume) target() string {
	return filepath.Join(v.dir(), "volumes", "kubernetes.io~csi", "secrets", "mount")
}

func (v *volume) id() string { return "csi-" + strings.ReplaceAll(v.uid, "-", "") }

// prepare makes the folder in which the driver makes the target.
func (v *volume) prepare() error { return os.MkdirAll(filepath.Dir(v.target()), 0o750) }

// request is what kubelet sends, with a token as long as one is.
func (v *volume) request() *csi.NodePublishVolumeRequest {
	token := strings.Repeat("x", 900) + v.pod
	return &csi.NodePublishVolumeRequest{
		VolumeId: v.id(), TargetPath: v.target(), Readonly: true,
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
		VolumeContext: map[string]string{
			"secretProviderClass": v.class, "csi.storage.k8s.io/ephemeral": "true",
			"csi.storage.k8s.io/pod.namespace": v.namespace, "csi.storage.k8s.io/pod.name": v.pod,
			"csi.storage.k8s.io/pod.uid": v.uid, "csi.storage.k8s.io/serviceAccount.name": v.account,
		},
		Secrets: map[string]string{
			"csi.storage.k8s.io/serviceAccount.tokens": fmt.Sprintf(`{"vault":{"token":%q,"expirationTimestamp":%q}}`, token, time.Now().Add(time.Hour).UTC().Format(time.RFC3339)),
		},
	}
}

// publish is the first call as well as each later one.
func (v *volume) publish(ctx context.Context) error {
	if _, err := v.peer.node.NodePublishVolume(ctx, v.request()); err != nil {
		return fmt.Errorf("%s: publish %s: %w", v.peer.name, v.pod, err)
	}
	return nil
}

// published checks that the files are there.
func (v *volume) published(files int) error {
	found, err := filepath.Glob(filepath.Join(v.target(), "secret-*"))
	if err == nil && len(found) != files {
		err = fmt.Errorf("%s: the volume of %s has %d files, want %d", v.peer.name, v.pod, len(found), files)
	}
	return err
}

// unpublish calls until it works, as kubelet does: a mount can be busy for a
// moment while others are looked at.
func (v *volume) unpublish(ctx context.Context) error {
	req := &csi.NodeUnpublishVolumeRequest{VolumeId: v.id(), TargetPath: v.target()}
	for range 9 {
		if _, err := v.peer.node.NodeUnpublishVolume(ctx, req); err == nil {
			return nil
		}
		v.peer.repeated.Add(1)
	}
	if _, err := v.peer.node.NodeUnpublishVolume(ctx, req); err != nil {
		return fmt.Errorf("%s: unpublish %s: %w", v.peer.name, v.pod, err)
	}
	return nil
}

// age makes the volume look as if nothing had changed for longer than any
// interval: by this time the upstream driver decides whether a call is due.
func (v *volume) age() error {
	long := time.Now().Add(-24 * time.Hour)
	return os.Chtimes(v.target(), long, long)
}

// remove unpublishes and removes the pod's folder.
func (v *volume) remove(ctx context.Context) error {
	return errors.Join(v.unpublish(ctx), os.RemoveAll(v.dir()))
}
