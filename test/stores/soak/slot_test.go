package soak

import (
	"context"
	"encoding/json"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/keymount/keymount/pkg/provider"
)

// A slot is one volume at a time, of one pod after the other.
type slot struct {
	node  *node
	id    string
	class string // and service account

	mu        sync.RWMutex
	published bool // and not yet about to end; who looks at the volume holds mu
}

func (s *slot) target() string { return filepath.Join(s.node.dir, "pods", s.id, "mount") }

func (s *slot) pod() provider.Pod {
	return provider.Pod{Namespace: "shop", Name: "pod-" + s.id, UID: "uid-" + s.id, ServiceAccount: s.class}
}

// live lets pods come and go until ctx ends.
func (s *slot) live(ctx context.Context) {
	for ctx.Err() == nil {
		s.begin(ctx)
		for end := time.Now().Add(time.Duration(3000+mathrand.IntN(60_000)) * time.Millisecond); time.Now().Before(end); {
			if !pause(ctx, time.Duration(1000+mathrand.IntN(2000))*time.Millisecond) {
				return
			}
			_ = s.publish(ctx) // a republish, which comes again
		}
		s.end(ctx)
		pause(ctx, time.Duration(mathrand.IntN(3000))*time.Millisecond)
	}
}

// begin publishes the volume, and repeats that until it succeeds.
func (s *slot) begin(ctx context.Context) {
	for s.publish(ctx) != nil && pause(ctx, 200*time.Millisecond) {
		continue
	}
}

// end unpublishes the volume, and repeats that until it succeeds. Nobody uses
// it any more then.
func (s *slot) end(ctx context.Context) {
	s.mu.Lock()
	s.published = false
	s.mu.Unlock()
	for s.unpublish(ctx) != nil && pause(ctx, 200*time.Millisecond) {
		continue
	}
}

func (s *slot) publish(ctx context.Context) error {
	n := s.node
	token := n.issuer.Token(n.t, s.pod(), "openbao", time.Hour)
	n.forbid(string(token.Value.Reveal()))
	tokens, err := json.Marshal(map[string]any{"openbao": map[string]string{
		"token": string(token.Value.Reveal()), "expirationTimestamp": token.Expires.UTC().Format(time.RFC3339),
	}})
	if err != nil {
		return err
	}
	pod := s.pod()
	_, err = csi.NewNodeClient(n.conn).NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: s.id, TargetPath: s.target(), Readonly: true,
		VolumeCapability: &csi.VolumeCapability{AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}}},
		VolumeContext: map[string]string{
			"secretProviderClass": s.class, "csi.storage.k8s.io/ephemeral": "true",
			"csi.storage.k8s.io/pod.namespace": pod.Namespace, "csi.storage.k8s.io/pod.name": pod.Name, "csi.storage.k8s.io/pod.uid": pod.UID,
			"csi.storage.k8s.io/serviceAccount.name": pod.ServiceAccount, "csi.storage.k8s.io/serviceAccount.tokens": string(tokens),
		},
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.published {
		n.publishes.Add(1)
	}
	s.published = true
	return nil
}

func (s *slot) unpublish(ctx context.Context) error {
	_, err := csi.NewNodeClient(s.node.conn).NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: s.id, TargetPath: s.target()})
	return err
}

// An account is what one generation of a volume shows.
type account struct{ user, password string }

// account reads user and password of the same generation.
func (s *slot) account() (account, error) {
	for {
		generation, err := filepath.EvalSymlinks(filepath.Join(s.target(), "..data"))
		if err != nil {
			return account{}, err
		}
		user, userErr := os.ReadFile(filepath.Join(generation, "username"))
		password, passwordErr := os.ReadFile(filepath.Join(generation, "password"))
		if userErr == nil && passwordErr == nil {
			return account{string(user), string(password)}, nil
		}
		if now, err := filepath.EvalSymlinks(filepath.Join(s.target(), "..data")); err == nil && now == generation {
			return account{}, userErr
		}
	}
}
