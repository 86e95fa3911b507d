package tmpfs

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// kubelet's folder may be mounted into the driver's container twice: on two
// paths, and by two parts of it. The volume of a running pod is then in the
// driver's table of mounts more than once.
func TestMountKeepsAVolumeThatIsSeenTwice(t *testing.T) {
	for name, part := range map[string]string{"the same folder": "", "a folder in it": "pods"} {
		t.Run(name, func(t *testing.T) {
			m := mustNew(t)
			tree, peer := t.TempDir(), t.TempDir()
			t.Cleanup(func() { unmountAll(peer); unmountAll(tree) })
			must(t, os.MkdirAll(filepath.Join(tree, "pods/1"), 0o700))
			must(t, unix.Mount(tree, tree, "", unix.MS_BIND, ""))
			must(t, unix.Mount("", tree, "", unix.MS_SHARED, ""))
			must(t, unix.Mount(filepath.Join(tree, part), peer, "", unix.MS_BIND, ""))
			target := filepath.Join(tree, "pods/1/mount")
			mirror, err := filepath.Rel(part, "pods/1/mount")
			must(t, err)
			mirror = filepath.Join(peer, mirror)

			id := mustMount(t, m, target, Options{})
			mustPut(t, filepath.Join(target, "a"), "kept")
			checkFile(t, filepath.Join(mirror, "a"), "kept")
			checkKept(t, m, target, id)
			seen, err := m.Mounted(mirror)
			must(t, err)
			checkKept(t, m, mirror, seen)
			checkFile(t, filepath.Join(target, "a"), "kept")
			must(t, m.Unmount(mirror))
			checkGone(t, target)
		})
	}
}

func TestMountTakesNoFileSystemOfAnotherDirectory(t *testing.T) {
	tests := []struct {
		name  string
		owner func(t *testing.T, m *Mounter, tree string) (dir string)
	}{
		{"the shared memory of the machine", func(t *testing.T, _ *Mounter, tree string) string {
			shm := t.TempDir() // as /dev/shm, which a container need not have
			t.Cleanup(func() { unmountAll(shm) })
			must(t, unix.Mount("shm", shm, "tmpfs", 0, ""))
			return shm
		}},
		{"the volume of another pod", func(t *testing.T, m *Mounter, tree string) string {
			other := filepath.Join(tree, "pods/2/mount")
			mustMount(t, m, other, Options{})
			must(t, os.Symlink("..2026_01_02_15_04_05.1", filepath.Join(other, "..data")))
			return other
		}},
	}
	for _, test := range tests {
		for _, shared := range []uintptr{unix.MS_SHARED, unix.MS_PRIVATE} {
			t.Run(test.name, func(t *testing.T) {
				m := mustNew(t)
				tree, peer := t.TempDir(), t.TempDir()
				t.Cleanup(func() { unmountAll(peer); unmountAll(tree) })
				must(t, unix.Mount(tree, tree, "", unix.MS_BIND, ""))
				must(t, unix.Mount("", tree, "", shared, ""))
				must(t, unix.Mount(tree, peer, "", unix.MS_BIND, ""))
				owner := test.owner(t, m, tree)
				mustPut(t, filepath.Join(owner, "a"), "foreign")
				target := filepath.Join(tree, "pods/1/mount")
				must(t, os.MkdirAll(target, 0o700))
				must(t, unix.Mount(owner, target, "", unix.MS_BIND, ""))
				foreign, err := m.Mounted(target)
				must(t, err)

				checkReplaced(t, m, target, foreign)
				mustPut(t, filepath.Join(target, "a"), "ours")
				checkFile(t, filepath.Join(owner, "a"), "foreign")
				must(t, m.Unmount(target))
				must(t, m.Unmount(filepath.Join(tree, "pods/2/mount"))) // before its parent
			})
		}
	}
}

func TestMountRemovesOnlyWhatCoversAVolume(t *testing.T) {
	disk := t.TempDir()
	cover := map[string]func(target string) error{
		"a new memory file system": func(at string) error { return unix.Mount("tmpfs", at, "tmpfs", 0, "") },
		"many of them": func(at string) (err error) {
			for range 5 {
				err = errors.Join(err, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
			}
			return err
		},
		"a directory of a disk":         func(at string) error { return unix.Mount(disk, at, "", unix.MS_BIND, "") },
		"the same volume":               func(at string) error { return unix.Mount(at, at, "", unix.MS_BIND, "") },
		"a file system of another type": func(at string) error { return unix.Mount("ramfs", at, "ramfs", 0, "") },
	}
	for name, cover := range cover {
		for kind, m := range mounters(t) {
			t.Run(name+", "+kind, func(t *testing.T) {
				target := newTarget(t)
				id := mustMount(t, m, target, Options{})
				mustPut(t, filepath.Join(target, "a"), "kept")
				must(t, cover(target))
				checkKept(t, m, target, id)
				only(t, target)
				checkFile(t, filepath.Join(target, "a"), "kept")
			})
		}
	}
}

// An older driver may have written into a target on which nothing was mounted.
func TestMountCoversNoFiles(t *testing.T) {
	plant := map[string]func(target string) error{
		"a directory with a file": func(target string) error { return os.WriteFile(target+"/precious", []byte("kept"), 0o600) },
		"below a foreign mount": func(target string) error {
			return errors.Join(os.WriteFile(target+"/precious", []byte("kept"), 0o600), unix.Mount("ramfs", target, "ramfs", 0, ""))
		},
	}
	for name, plant := range plant {
		for kind, m := range mounters(t) {
			t.Run(name+", "+kind, func(t *testing.T) {
				target := newTarget(t)
				must(t, os.MkdirAll(target, 0o700))
				must(t, plant(target))
				id, kept, err := m.Mount(target, Options{})
				if kept || !errors.Is(err, unix.ENOTEMPTY) || !strings.Contains(err.Error(), target) {
					t.Errorf("Mount = %d, kept %v, %v, want ENOTEMPTY of %s", id, kept, err, target)
				}
				checkMounted(t, m, target, 0)
				checkFile(t, filepath.Join(target, "precious"), "kept")
			})
		}
	}
}
