package tmpfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"

	"github.com/keymount/keymount/pkg/tmpfs/userns"
)

func TestMain(m *testing.M) { os.Exit(userns.Main(m)) }

// mounters are the two ways to mount; each must do all that is promised.
func mounters(t *testing.T) map[string]*Mounter {
	t.Helper()
	return map[string]*Mounter{"detached": mustNew(t), "classic": {classic: true}}
}

func mustNew(t testing.TB) *Mounter {
	t.Helper()
	m, err := New()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func mustMount(t testing.TB, m *Mounter, target string, o Options) uint64 {
	t.Helper()
	id, _, err := m.Mount(target, o)
	must(t, err)
	return id
}

// checkKept fails unless Mount keeps the mount that is at target.
func checkKept(t *testing.T, m *Mounter, target string, want uint64) {
	t.Helper()
	if id, kept, err := m.Mount(target, Options{}); id != want || !kept || err != nil {
		t.Errorf("Mount(%q) = %d, kept %v, %v, want that %d is kept", target, id, kept, err, want)
	}
}

// checkReplaced fails unless Mount puts a new mount in the place of what is at
// target.
func checkReplaced(t *testing.T, m *Mounter, target string, old uint64) {
	t.Helper()
	if id, kept, err := m.Mount(target, Options{}); id == old || id == 0 || kept || err != nil {
		t.Errorf("Mount(%q) = %d, kept %v, %v, want something else than %d", target, id, kept, err, old)
	}
}

// newTarget returns the path of a target that does not exist. Whatever is
// mounted there is removed after the test.
func newTarget(t testing.TB) string {
	t.Helper()
	target := filepath.Join(t.TempDir(), "pod", "mount")
	t.Cleanup(func() { unmountAll(target) })
	return target
}

func unmountAll(path string) {
	for unix.Unmount(path, unix.MNT_DETACH) == nil {
		continue
	}
}

// mounts returns the mounts at path, as the kernel tells.
func mounts(t testing.TB, path string) []mount.MountInfo {
	t.Helper()
	table, err := mount.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(table, func(m mount.MountInfo) bool { return m.MountPoint != path })
}

// only returns the one mount that is at path.
func only(t testing.TB, path string) mount.MountInfo {
	t.Helper()
	at := mounts(t, path)
	if len(at) != 1 {
		t.Fatalf("mounts at %s: %v, want one", path, at)
	}
	return at[0]
}

func checkMounted(t *testing.T, m *Mounter, target string, want uint64) {
	t.Helper()
	if got, err := m.Mounted(target); got != want || err != nil {
		t.Errorf("Mounted(%q) = %d, %v, want %d", target, got, err, want)
	}
}

// checkGone fails if there is anything at path.
func checkGone(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", path, err)
	}
	if at := mounts(t, path); len(at) > 0 {
		t.Errorf("mounts at %s: %v", path, at)
	}
}

func mustPut(t testing.TB, path, data string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(data), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func checkFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); string(got) != want || err != nil {
		t.Errorf("%s holds %q, %v, want %q", path, got, err, want)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inUserNamespace reports whether the tests run for an ordinary user.
func inUserNamespace(t *testing.T) bool {
	t.Helper()
	uids, err := os.ReadFile("/proc/self/uid_map")
	must(t, err)
	return !slices.Equal(strings.Fields(string(uids)), []string{"0", "0", "4294967295"})
}
