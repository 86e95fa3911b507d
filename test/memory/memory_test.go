package memory

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/tmpfs/userns"
)

func TestMain(m *testing.M) { os.Exit(userns.Main(m)) }

// patience is how long anything may take. Secrets have to be gone by then.
const patience = time.Minute

// eventually waits until done, asking every now and then.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	end := time.After(patience)
	for !done() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func TestSecretsThatAreNoLongerNeededAreNotInMemory(t *testing.T) {
	n := newNode(t)
	canary := rand.Text()
	last := -1
	count := func(when string) int {
		driver, err := Copies(n.driver.Process.Pid, canary)
		must(t, err)
		provider, err := Copies(n.provider.Process.Pid, canary)
		must(t, err)
		if driver+provider != last {
			t.Logf("%s: %d copies of %d secrets in the driver, %d in the provider", when, driver, volumes, provider)
		}
		last = driver + provider
		return last
	}
	for i := range volumes {
		n.store(i, canary+rand.Text())
		n.publish(i)
	}
	if count("published") == 0 {
		t.Error("no secret was found in memory when it had to be there: the search finds nothing")
	}
	for i := range volumes {
		value := canary + rand.Text()
		n.store(i, value)
		eventually(t, "the new secret is in the volume", func() bool { return n.shown(i) == value })
	}
	count("rotated")
	eventually(t, "no secret is in memory while its pods run", func() bool { return count("while the pods run") == 0 })
	for i := range volumes {
		n.unpublish(i)
	}
	eventually(t, "no secret is in memory afterwards", func() bool { return count("unpublished") == 0 })
	for _, p := range []*exec.Cmd{n.driver, n.provider} {
		for _, file := range []string{"environ", "cmdline"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.Process.Pid, file))
			must(t, err)
			if bytes.Contains(text, []byte(canary)) {
				t.Errorf("%s of %s has a secret", file, filepath.Base(p.Path))
			}
		}
	}
}
