package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keymount/keymount/test/memory"
)

var confinement = []scenario{
	{"the processes have given up what docs/security.md says", true, processesAreConfined},
	{"a minute after a pod has gone, its secret is in no memory, environment, command line, swap or disk", true, secretsAreForgotten},
}

// processesAreConfined looks at what the kernel knows of the processes.
func processesAreConfined(t *testing.T, s *suite) {
	want := map[string]map[string]string{
		driverProgram: { // cap_chown, cap_dac_override, cap_fowner, cap_sys_admin, cap_lease
			"CapEff": "000000001020000b", "CapPrm": "000000001020000b", "CapBnd": "000000001020000b", "CapInh": "0000000000000000", "CapAmb": "0000000000000000",
			"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "1", "Umask": "0077",
		},
		providerProgram: { // one filter is the runtime's
			"CapEff": "0000000000000000", "CapPrm": "0000000000000000", "CapBnd": "0000000000000000", "CapInh": "0000000000000000", "CapAmb": "0000000000000000",
			"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "2", "Umask": "0077", "Uid": "65532\t65532\t65532\t65532",
		},
	}
	seen := map[string]bool{}
	for pid, program := range processes(t, driverProgram, providerProgram) {
		seen[program] = true
		status := statusOf(t, pid)
		for field, value := range want[program] {
			if status[field] != value {
				t.Errorf("%s has %s %q, want %q", program, field, status[field], value)
			}
		}
		if limit, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid)); err != nil || !bytes.Contains(limit, []byte("Max core file size        0                    0")) {
			t.Errorf("%s may dump core: %v\n%s", program, err, limit)
		}
	}
	if len(seen) < 2 {
		t.Errorf("of the processes there are %v", seen)
	}
}

// secretsAreForgotten publishes, rotates, fails and removes, and then searches
// the node. The secret is not one that other scenarios store.
func secretsAreForgotten(t *testing.T, s *suite) {
	ns := s.namespace(t)
	first, second := s.canary(), s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": first}})
	s.put(t, ns, "db.json", `{"password": "`+first+`"}`)
	s.apply(t, ns, class("c", "foo"), fileClass)
	s.start(t, ns, podSpec{name: "app", classes: []string{"c", "file"}})
	s.mock(t, ns, answer{Objects: map[string]string{"foo": second}})
	s.sees(t, ns, "app", "/secrets/c/foo", second)
	if count := s.inMemory(t, first, second); count == 0 {
		t.Log("the search found nothing while the secrets were in use")
	}
	s.remove(t, ns, "app")
	s.eventually(t, "the secrets are forgotten", func(context.Context) error {
		if count := s.inMemory(t, first, second); count > 0 {
			return fmt.Errorf("%d copies are in the memory of driver and provider", count)
		}
		return nil
	})
	total := s.inMemory(t, mark)
	t.Logf("of all %d secrets of all scenarios, %d copies are in the memory of driver and provider", s.canaries.Load(), total)
	s.searchProcesses(t)
	for _, root := range []string{"/run/keymount", "/var/lib/kubelet", auditDir} {
		s.searchDisk(t, root)
	}
}

const fileClass = `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: file}
spec:
  provider: file
  parameters: {objects: "- {objectName: foo, path: db.json, key: password}"}
`

// inMemory counts the copies of texts in the memory of driver and provider.
func (s *suite) inMemory(t *testing.T, texts ...string) (count int) {
	t.Helper()
	for pid := range processes(t, driverProgram, providerProgram) {
		for _, text := range texts {
			found, err := memory.Copies(pid, text)
			if err != nil {
				t.Fatal(err)
			}
			count += found
		}
	}
	return count
}

// searchProcesses searches what the kernel tells of processes.
func (s *suite) searchProcesses(t *testing.T) {
	t.Helper()
	for pid, program := range processes(t, driverProgram, providerProgram) {
		for _, file := range []string{"environ", "cmdline"} {
			text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
			if err != nil || s.leaks(text, []byte(token)) {
				t.Errorf("%s of %s has a secret, or %v", file, program, err)
			}
		}
		if swapped := statusOf(t, pid)["VmSwap"]; swapped != "0 kB" {
			t.Errorf("of %s %s are swapped out", program, swapped)
		}
	}
}

// searchDisk searches the files below a folder that are on its own disk: not
// those of the volumes.
func (s *suite) searchDisk(t *testing.T, root string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // it has gone meanwhile
		}
		info, err := entry.Info()
		if err != nil {
			return nil //nolint:nilerr // as above
		}
		if entry.IsDir() && inMemoryOnly(path) {
			return fs.SkipDir
		}
		if !info.Mode().IsRegular() || info.Size() > 64<<20 {
			return nil
		}
		files++
		if text, err := os.ReadFile(path); err == nil && s.leaks(text) {
			t.Errorf("%s has a secret", path)
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("%s: %d files, %v", root, files, err)
	}
}

// inMemoryOnly reports whether a folder is of a file system in memory, other
// than that of /run.
func inMemoryOnly(path string) bool {
	const tmpfs = 0x01021994
	var stat syscall.Statfs_t
	return syscall.Statfs(path, &stat) == nil && stat.Type == tmpfs && !strings.HasPrefix(path, "/run/")
}

// measureMemory prints how many copies of secrets are in the memory of driver
// and provider half a minute after all pods with volumes have gone: none, but
// for what clients of stores leave in buffers of connections.
func (s *suite) measureMemory(t *testing.T, store string) {
	t.Helper()
	if !s.Local {
		return
	}
	with, err := s.kubectl(t.Context(), "", "get", "secretproviderclasspodstatuses", "-A", "-o", `jsonpath={range .items[*]}{.metadata.namespace}{"\n"}{end}`)
	if err != nil {
		t.Error(err)
	}
	namespaces := strings.Fields(with)
	slices.Sort(namespaces)
	for _, ns := range slices.Compact(namespaces) {
		if out, err := s.kubectl(t.Context(), "", "delete", "pods", "--all", "-n", ns); err != nil {
			t.Error(out, err)
		}
	}
	<-time.After(30 * time.Second)
	for pid, program := range processes(t, driverProgram, providerProgram) {
		found, err := memory.Copies(pid, mark)
		if err != nil {
			t.Error(err)
		}
		measure(t, "copies-in-memory-"+strings.TrimPrefix(program, "/")+"-"+store, float64(found), "copies")
		if program == driverProgram && found > 0 {
			t.Errorf("%d copies of secrets are in the memory of the driver", found)
		}
	}
}
