package crash

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/audit"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// A mint gives out bundles of which no two are alike. They are leased, so that
// volumes share none.
type mint struct{ canary string }

func (m mint) Fetch(context.Context, *provider.Request) (*provider.Bundle, error) {
	serial := rand.Text()
	return &provider.Bundle{
		Files:    []provider.File{{Path: "secret", Mode: 0o644, Data: secret.New([]byte(m.canary + serial))}},
		Versions: provider.Versions{"secret": serial},
		Lease:    provider.Lease{ID: serial, Expires: time.Now().Add(time.Hour)},
	}, nil
}

// Whenever the driver is killed, each bundle that a volume has shown is in the
// log once, as one that was fetched for that volume, and the log is whole.
func TestEachBundleThatWasDeliveredIsWrittenDownOnce(t *testing.T) {
	n := newNode(t)
	log := filepath.Join(n.dir, "audit.jsonl")
	n.flags = []string{"--audit-log=" + log}
	n.serve("mint", mint{n.canary})
	manifest := "apiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: c, namespace: ns}\nspec: {provider: mint, parameters: {rotationInterval: 1s}}\n"
	if err := os.WriteFile(filepath.Join(n.dir, "classes", "c.yaml"), []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	delivered := map[string]bool{}
	for range 12 {
		n.start()
		n.settle()
		n.note(delivered)
		n.work(func(ctx context.Context) { pause(ctx, time.Duration(2+mathrand.IntN(150))*time.Millisecond) }, volumes)
		n.note(delivered)
	}
	n.start()
	n.settle()
	n.note(delivered)
	n.removeAll()
	n.stop(syscall.SIGTERM)

	fetches := n.fetches(log)
	for bundle := range delivered {
		if got := fetches[n.marked(bundle)]; got != 1 {
			t.Errorf("a bundle that a volume has shown is in the log %d times", got)
		}
	}
	if len(delivered) < 20 {
		t.Errorf("only %d bundles were seen: the test says nothing", len(delivered))
	}
	t.Logf("%d bundles were seen in volumes, each of which is one of %d in the log", len(delivered), len(fetches))
}

// note adds what volumes show: their names, and the secret.
func (n *node) note(delivered map[string]bool) {
	for i := range volumes {
		if text, err := os.ReadFile(filepath.Join(n.target(i), "secret")); err == nil {
			delivered[fmt.Sprintf("v%d %s", i, text)] = true
		}
	}
}

// marked returns what note has seen with the log's fingerprint of the secret.
func (n *node) marked(bundle string) string {
	n.t.Helper()
	key, err := os.ReadFile(filepath.Join(n.dir, "state", "audit.key"))
	if err != nil {
		n.t.Fatal(err)
	}
	var volume, text string
	if _, err := fmt.Sscan(bundle, &volume, &text); err != nil {
		n.t.Fatal(err)
	}
	return volume + " " + hex.EncodeToString(secret.New([]byte(text)).MAC(key)[:16])
}

// fetches returns how often each bundle is in the log, which `keymount audit
// verify` must find to be whole.
func (n *node) fetches(log string) map[string]int {
	n.t.Helper()
	out, err := exec.Command("go", "run", "-buildvcs=false", "github.com/keymount/keymount/cmd/keymount", "audit", "verify", log).CombinedOutput()
	if err != nil {
		n.t.Errorf("keymount audit verify: %v\n%s", err, out)
	}
	f, err := os.Open(log)
	if err != nil {
		n.t.Fatal(err)
	}
	defer f.Close()
	found := map[string]int{}
	_, err = audit.Verify(f, func(e audit.Event) error {
		if e.Event == audit.Fetch && e.Decision == audit.Allow && len(e.Files) == 1 {
			found[e.Volume+" "+e.Files[0].Fingerprint]++
		}
		return nil
	})
	if err != nil {
		n.t.Error(err)
	}
	return found
}
