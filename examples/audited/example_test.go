// Package audited runs what the README of this example says about its audit log.
package audited

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// keymount builds the command once, and returns how to run it here.
func keymount(t *testing.T) func(args ...string) (string, error) {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "keymount")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, "../../cmd/keymount").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return func(args ...string) (string, error) {
		out, err := exec.Command(binary, args...).CombinedOutput()
		return string(out), err
	}
}

func TestTheAuditLogIsReadAsTheReadmeSays(t *testing.T) {
	run := keymount(t)
	if out, err := run("audit", "verify", "audit.jsonl"); err != nil || out != "4 events, 1 to 4: whole\n" {
		t.Errorf("verify: %v\n%s", err, out)
	}
	out, err := run("audit", "show", "--pod", "shop/cron-1", "audit.jsonl")
	if err != nil || strings.Count(out, "\n") != 1 || !strings.Contains(out, "fetch refuse") || !strings.Contains(out, "reason=Denied") {
		t.Errorf("show: %v\n%s", err, out)
	}
}

// Whatever one letter is changed, it is found out; but for the last line, whose
// hash only the next one will have.
func TestAChangedLetterIsFoundOut(t *testing.T) {
	run := keymount(t)
	text, err := os.ReadFile("audit.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.LastIndexByte(bytes.TrimSpace(text), '\n')
	for at := range last {
		if at%97 != 0 || text[at] == '\n' {
			continue
		}
		altered := bytes.Clone(text)
		altered[at] ^= 1
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(path, altered, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := run("audit", "verify", path); err == nil {
			t.Errorf("with another letter at %d: %s", at, out)
		}
	}
}
