package tmpfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestMountHasTheFlagsAndLimits(t *testing.T) {
	for name, m := range mounters(t) {
		t.Run(name, func(t *testing.T) {
			target := newTarget(t)
			id := mustMount(t, m, target, Options{Size: 1 << 20, Inodes: 50})
			checkMounted(t, m, target, id)
			at := only(t, target)
			if at.FsType != "tmpfs" || at.Source != "keymount" || at.Root != "/" {
				t.Errorf("mounted %s from %s, root %s", at.FsType, at.Source, at.Root)
			}
			for _, flag := range []string{"rw", "nosuid", "nodev", "noexec"} {
				if !slices.Contains(at.MountOptions, flag) {
					t.Errorf("%s is not in force: %v", flag, at.MountOptions)
				}
			}
			for _, option := range []string{"size=1024k", "nr_inodes=50", "mode=755"} {
				if !slices.Contains(at.SuperOptions, option) {
					t.Errorf("%s is not in force: %v", option, at.SuperOptions)
				}
			}
			if got := slices.Contains(at.SuperOptions, "noswap"); got != m.NoSwap() {
				t.Errorf("noswap in force: %v, but NoSwap() = %v", got, m.NoSwap())
			}
			if got := m.Degraded() > 0; got == m.NoSwap() {
				t.Errorf("Degraded() = %d, but NoSwap() = %v", m.Degraded(), m.NoSwap())
			}
			info, err := os.Stat(filepath.Dir(target))
			must(t, err)
			if info.Mode().Perm() != 0o750 {
				t.Errorf("mode of the parent = %v, want 0750", info.Mode())
			}
		})
	}
}

func TestNoSwapIsRefusedInAUserNamespaceOnly(t *testing.T) {
	if got, want := mustNew(t).NoSwap(), !inUserNamespace(t); got != want {
		t.Errorf("NoSwap() = %v, want %v (given Linux 6.4)", got, want)
	}
}

func TestLimitsAreEnforced(t *testing.T) {
	for name, m := range mounters(t) {
		t.Run(name, func(t *testing.T) {
			target := newTarget(t)
			mustMount(t, m, target, Options{Size: 64 << 10, Inodes: 5})
			err := os.WriteFile(filepath.Join(target, "big"), make([]byte, 65<<10), 0o600)
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("writing more than the size: %v, want ENOSPC", err)
			}
			err = nil
			for i := 0; err == nil && i < 10; i++ {
				err = os.WriteFile(filepath.Join(target, fmt.Sprint(i)), nil, 0o600)
			}
			if !errors.Is(err, unix.ENOSPC) {
				t.Errorf("making more than the inodes: %v, want ENOSPC", err)
			}
		})
	}
}

func TestZeroOptionsHaveDefaultLimits(t *testing.T) {
	target := newTarget(t)
	mustMount(t, mustNew(t), target, Options{})
	at := only(t, target)
	for _, option := range []string{"size=16384k", "nr_inodes=4096"} {
		if !slices.Contains(at.SuperOptions, option) {
			t.Errorf("%s is not in force: %v", option, at.SuperOptions)
		}
	}
}

func TestMountSetsTheGroupOfTheRoot(t *testing.T) {
	group := int64(4321)
	for name, m := range mounters(t) {
		t.Run(name, func(t *testing.T) {
			target := newTarget(t)
			_, _, err := m.Mount(target, Options{Group: &group})
			if inUserNamespace(t) { // which has no such group: nothing may be left
				if err == nil {
					t.Error("Mount with an unknown group succeeded")
				}
				checkGone(t, filepath.Dir(target))
				return
			}
			must(t, err)
			for _, want := range []*int64{&group, nil} { // and changes it of a mount that is kept
				mustMount(t, m, target, Options{Group: want})
				info, err := os.Stat(target)
				must(t, err)
				got := int64(info.Sys().(*syscall.Stat_t).Gid)
				if want == nil {
					want = new(int64)
				}
				if got != *want || info.Mode().Perm() != 0o755 {
					t.Errorf("root: group %d, mode %v, want group %d, mode 0755", got, info.Mode(), *want)
				}
			}
		})
	}
}

func TestMountedIsZeroUnlessSomethingIsMounted(t *testing.T) {
	m := mustNew(t)
	dir := t.TempDir()
	mustPut(t, filepath.Join(dir, "file"), "")
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o700))
	target := newTarget(t)
	mustMount(t, m, target, Options{})
	must(t, os.Symlink(target, filepath.Join(dir, "link")))
	must(t, os.Mkdir(filepath.Join(target, "below"), 0o700))
	for _, path := range []string{"file", "file/below", "dir", "link", "missing", "missing/below"} {
		checkMounted(t, m, filepath.Join(dir, path), 0)
	}
	checkMounted(t, m, filepath.Join(target, "below"), 0)
}

// onThreadOfItsOwn calls do on a thread that ends with the goroutine. It must
// not be the first thread, which cannot end, and whose namespace /proc/self shows.
func onThreadOfItsOwn(do func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		do()
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() { defer close(done); onThreadOfItsOwn(do) }()
	<-done
}

// Each container of a driver has a mount namespace of its own.
func TestAMountHasItsIdentityInEachNamespace(t *testing.T) {
	m := mustNew(t)
	target := newTarget(t)
	want := mustMount(t, m, target, Options{})
	type answer struct {
		id  uint64
		err error
	}
	elsewhere := make(chan answer)
	go onThreadOfItsOwn(func() {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			elsewhere <- answer{err: err}
			return
		}
		dir, err := m.Open(target, want)
		if err != nil {
			elsewhere <- answer{err: err}
			return
		}
		id, err := m.Mounted(target)
		elsewhere <- answer{id, errors.Join(err, dir.Close())}
	})
	if got := <-elsewhere; got.err != nil || got.id != want {
		t.Errorf("identity in another namespace = %d, %v, want %d", got.id, got.err, want)
	}
}

func TestNoTwoMountsHaveTheSameIdentity(t *testing.T) {
	m := mustNew(t)
	target := newTarget(t)
	seen := map[uint64]bool{}
	for range 20 {
		seen[mustMount(t, m, target, Options{})] = true
		must(t, m.Unmount(target))
	}
	if len(seen) != 20 || seen[0] {
		t.Errorf("identities of 20 mounts: %v", seen)
	}
}

func TestMountKeepsAMemoryFileSystemWithItsFiles(t *testing.T) {
	for name, m := range mounters(t) {
		t.Run(name, func(t *testing.T) {
			target := newTarget(t)
			id := mustMount(t, m, target, Options{Size: 1 << 20, Inodes: 50})
			mustPut(t, filepath.Join(target, "a"), "kept")
			must(t, unix.Mount("", target, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")) // and exec, suid, dev

			if got := mustMount(t, m, target, Options{Size: 2 << 20, Inodes: 60}); got != id {
				t.Errorf("identity = %d, want %d", got, id)
			}
			checkFile(t, filepath.Join(target, "a"), "kept")
			at := only(t, target)
			want := []string{"rw", "nosuid", "nodev", "noexec", "relatime"}
			if diff := cmp.Diff(want, at.MountOptions); diff != "" {
				t.Errorf("flags (-want +got):\n%s", diff)
			}
			if !slices.Contains(at.SuperOptions, "size=2048k") || !slices.Contains(at.SuperOptions, "nr_inodes=60") {
				t.Errorf("limits: %v", at.SuperOptions)
			}
		})
	}
}

func TestMountThatCannotShrinkLeavesTheOldOne(t *testing.T) {
	m := mustNew(t)
	target := newTarget(t)
	id := mustMount(t, m, target, Options{Size: 1 << 20})
	mustPut(t, filepath.Join(target, "a"), string(make([]byte, 512<<10)))
	if _, kept, err := m.Mount(target, Options{Size: 4096}); !kept || !errors.Is(err, unix.EINVAL) {
		t.Errorf("Mount = kept %v, %v, want EINVAL of what is kept", kept, err)
	}
	checkMounted(t, m, target, id)
}

func TestMountReplacesWhatIsMountedThere(t *testing.T) {
	shared := t.TempDir() // a memory file system that belongs to somebody else
	must(t, unix.Mount("tmpfs", shared, "tmpfs", 0, "size=8m"))
	t.Cleanup(func() { unmountAll(shared) })
	mustPut(t, filepath.Join(shared, "sub/a"), "foreign")
	disk := t.TempDir()
	mustPut(t, filepath.Join(disk, "a"), "foreign")
	ours := Options{Size: 1 << 20}
	tests := []struct {
		name    string
		prepare func(m *Mounter, target string) error
	}{
		{"a directory of a disk", func(_ *Mounter, at string) error { return unix.Mount(disk, at, "", unix.MS_BIND, "") }},
		{"a memory file system of somebody else", func(_ *Mounter, at string) error { return unix.Mount(shared, at, "", unix.MS_BIND, "") }},
		{"a directory of a memory file system", func(_ *Mounter, at string) error { return unix.Mount(shared+"/sub", at, "", unix.MS_BIND, "") }},
		{"a directory of a memory file system that is mounted nowhere else", func(_ *Mounter, at string) error {
			whole := at + ".whole"
			return errors.Join(os.Mkdir(whole, 0o700), unix.Mount("tmpfs", whole, "tmpfs", 0, ""), os.Mkdir(whole+"/sub", 0o700),
				unix.Mount(whole+"/sub", at, "", unix.MS_BIND, ""), unix.Unmount(whole, 0))
		}},
		{"a file system of another type", func(_ *Mounter, at string) error { return unix.Mount("ramfs", at, "ramfs", 0, "") }},
		{"a foreign mount over ours", func(m *Mounter, at string) error {
			_, _, err := m.Mount(at, ours)
			return errors.Join(err, unix.Mount(disk, at, "", unix.MS_BIND, ""))
		}},
		{"ours over a foreign mount", func(_ *Mounter, at string) error {
			return errors.Join(unix.Mount(disk, at, "", unix.MS_BIND, ""), unix.Mount("tmpfs", at, "tmpfs", 0, ""))
		}},
		{"ours five times", func(_ *Mounter, at string) (err error) {
			for range 5 {
				err = errors.Join(err, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
			}
			return err
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := mustNew(t)
			target := newTarget(t)
			must(t, os.MkdirAll(target, 0o700))
			must(t, test.prepare(m, target))
			checkMounted(t, m, target, mustMount(t, m, target, ours))
			at := only(t, target)
			if at.FsType != "tmpfs" || at.Root != "/" || !slices.Contains(at.SuperOptions, "size=1024k") {
				t.Errorf("mounted %s of %s with %v", at.Root, at.FsType, at.SuperOptions)
			}
			mustPut(t, filepath.Join(target, "a"), "ours")
			must(t, m.Unmount(target))
			checkGone(t, target)
		})
	}
	checkFile(t, filepath.Join(disk, "a"), "foreign")
	checkFile(t, filepath.Join(shared, "sub/a"), "foreign")
	if options := only(t, shared).SuperOptions; !slices.Contains(options, "size=8192k") {
		t.Errorf("the limits of somebody else's file system became %v", options)
	}
}

func TestMountRefusesATargetThatIsNoDirectory(t *testing.T) {
	victim := t.TempDir()
	plant := map[string]func(target string) error{
		"a link":                     func(target string) error { return os.Symlink(victim, target) },
		"a link that leads nowhere":  func(target string) error { return os.Symlink(victim+"/missing", target) },
		"a link to itself":           func(target string) error { return os.Symlink(target, target) },
		"a file":                     func(target string) error { return os.WriteFile(target, nil, 0o600) },
		"a parent that is no folder": func(target string) error { return os.Remove(filepath.Dir(target)) },
	}
	for name, plant := range plant {
		for kind, m := range mounters(t) {
			t.Run(name+", "+kind, func(t *testing.T) {
				target := newTarget(t)
				must(t, os.MkdirAll(filepath.Dir(target), 0o700))
				must(t, plant(target))
				if name == "a parent that is no folder" {
					mustPut(t, filepath.Dir(target), "")
				}
				if id, _, err := m.Mount(target, Options{}); err == nil {
					t.Errorf("Mount = %d, want an error", id)
				}
				if at := append(mounts(t, target), mounts(t, victim)...); len(at) > 0 {
					t.Errorf("mounted: %v", at)
				}
			})
		}
	}
}

func TestAFailedMountLeavesNoDirectory(t *testing.T) {
	long := strings.Repeat("a", 300)
	tests := []struct {
		name   string
		target string
		opts   Options
	}{
		{"a name that no directory can have", "a/b/" + long, Options{}},
		{"a negative size", "a/b", Options{Size: -1}},
		{"a negative number of inodes", "a/b", Options{Inodes: -1}},
		{"a group that is none", "a/b", Options{Group: new(int64(1<<32 - 1))}},
		{"more inodes than there can be", "a/b", Options{Inodes: 1<<63 - 1}},
	}
	for _, test := range tests {
		for kind, m := range mounters(t) {
			t.Run(test.name+", "+kind, func(t *testing.T) {
				dir := t.TempDir()
				if id, _, err := m.Mount(filepath.Join(dir, test.target), test.opts); err == nil {
					t.Errorf("Mount = %d, want an error", id)
				}
				checkGone(t, filepath.Join(dir, "a"))
			})
		}
	}
}

func TestBadTargetsAreRefused(t *testing.T) {
	m := mustNew(t)
	for _, target := range []string{"", ".", "relative", "/", "/tmp/../etc", "/tmp/", "//tmp"} {
		_, mounted := m.Mounted(target)
		_, _, mount := m.Mount(target, Options{})
		_, open := m.Open(target, 1)
		for call, err := range map[string]error{"Mounted": mounted, "Mount": mount, "Open": open, "Unmount": m.Unmount(target)} {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s(%q) = %v, want fs.ErrInvalid", call, target, err)
			}
		}
	}
}

func TestManyTargetsAtOnce(t *testing.T) {
	m := mustNew(t)
	parent := filepath.Join(t.TempDir(), "new")
	var all sync.WaitGroup
	for i := range 64 {
		all.Go(func() {
			target := filepath.Join(parent, fmt.Sprint(i), "mount")
			for range 3 {
				id, _, err := m.Mount(target, Options{Size: 1 << 20})
				if err != nil {
					t.Error(err)
				}
				checkMounted(t, m, target, id)
				if err := m.Unmount(target); err != nil {
					t.Error(err)
				}
				checkGone(t, target)
			}
		})
	}
	all.Wait()
}

// Bidirectional propagation: kubelet's tree is shared with the driver's.
func TestMountAndUnmountReachTheOtherSideOfASharedTree(t *testing.T) {
	for name, propagation := range map[string]uintptr{"shared": unix.MS_SHARED, "private": unix.MS_PRIVATE} {
		for kind, m := range mounters(t) {
			t.Run(name+", "+kind, func(t *testing.T) {
				tree, peer := t.TempDir(), t.TempDir()
				t.Cleanup(func() { unmountAll(tree); unmountAll(peer) })
				must(t, unix.Mount(tree, tree, "", unix.MS_BIND, ""))
				must(t, unix.Mount("", tree, "", propagation, ""))
				must(t, unix.Mount(tree, peer, "", unix.MS_BIND, ""))
				target := filepath.Join(tree, "pod/mount")
				mirror := filepath.Join(peer, "pod/mount")

				id := mustMount(t, m, target, Options{})
				checkMounted(t, m, target, id)
				mustPut(t, filepath.Join(target, "a"), "x")
				if propagation == unix.MS_SHARED {
					checkFile(t, filepath.Join(mirror, "a"), "x")
				} else if at := mounts(t, mirror); len(at) > 0 {
					t.Errorf("a private tree showed its mounts: %v", at)
				}
				must(t, m.Unmount(target))
				checkGone(t, target)
				checkGone(t, mirror)
			})
		}
	}
}

func TestNewSaysWhenTheProcessMayNotMount(t *testing.T) {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlock: the thread ends without its capabilities
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			result <- err
			return
		}
		_, err := New()
		result <- err
	}()
	if err := <-result; !errors.Is(err, fs.ErrPermission) {
		t.Errorf("New = %v, want fs.ErrPermission", err)
	}
}
