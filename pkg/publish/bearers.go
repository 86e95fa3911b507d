package publish

import (
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/pkg/volume"
)

// bearerGrace is how long after a start the refreshes of volumes wait for
// kubelet to bring their tokens again. Kubelet calls about every 75 s.
const bearerGrace = 3 * time.Minute

// A bearer is what kubelet brought last to prove the identity of a pod. It is
// kept in memory only.
type bearer struct {
	tokens      provider.Tokens
	credentials map[string]secret.Value
}

func (b bearer) empty() bool { return len(b.tokens) == 0 && len(b.credentials) == 0 }

// bearers remembers the bearer of each published volume, and which volumes
// wait for theirs since a restart.
type bearers struct {
	mu      sync.Mutex
	known   map[volume.ID]bearer
	waiting map[volume.ID]struct{}
}

// bring remembers what kubelet brings for a volume, and reports whether a
// refresh waited for it.
func (b *bearers) bring(v volume.Volume) (awaited bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, awaited = b.waiting[v.ID]
	delete(b.waiting, v.ID)
	if brought := (bearer{v.Tokens, v.Credentials}); !brought.empty() {
		if b.known == nil {
			b.known = make(map[volume.ID]bearer)
		}
		b.known[v.ID] = brought
	}
	return awaited
}

// of returns what is known of a volume.
func (b *bearers) of(id volume.ID) bearer {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known[id]
}

// await notes that a refresh waits for kubelet.
func (b *bearers) await(id volume.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting == nil {
		b.waiting = make(map[volume.ID]struct{})
	}
	b.waiting[id] = struct{}{}
}

// forget drops all that is known of a volume.
func (b *bearers) forget(id volume.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.known, id)
	delete(b.waiting, id)
}
