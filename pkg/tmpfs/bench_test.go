package tmpfs

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkMount compares Mount and Unmount with the bare mkdir, mount,
// umount2 and rmdir, and Mounted with the bare statx. The metrics "x-raw" are
// the ratios.
func BenchmarkMount(b *testing.B) {
	m := mustNew(b)
	ours, raw := filepath.Join(b.TempDir(), "mount"), filepath.Join(b.TempDir(), "mount")
	data := Options{}.data(m.NoSwap())
	var spent [6]time.Duration
	steps := []func() error{
		func() error { _, _, err := m.Mount(ours, Options{}); return err },
		func() error {
			return errors.Join(os.Mkdir(raw, 0o750), unix.Mount("keymount", raw, "tmpfs", mountFlags, data))
		},
		func() error { _, err := m.Mounted(ours); return err },
		func() error {
			var st unix.Statx_t
			return unix.Statx(unix.AT_FDCWD, raw, statxFlags, unix.STATX_MNT_ID_UNIQUE, &st)
		},
		func() error { return m.Unmount(ours) },
		func() error { return errors.Join(unix.Unmount(raw, unix.UMOUNT_NOFOLLOW), unix.Rmdir(raw)) },
	}
	b.ReportAllocs()
	for b.Loop() {
		for i, step := range steps {
			start := time.Now()
			err := step()
			spent[i] += time.Since(start)
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	for i, call := range []string{"mount", "mounted", "unmount"} {
		took, floor := spent[2*i], spent[2*i+1]
		b.ReportMetric(float64(took.Nanoseconds())/float64(b.N), call+"-ns/op")
		b.ReportMetric(float64(took)/float64(floor), call+"-x-raw")
	}
}

// BenchmarkMounted is what an unchanged republish pays.
func BenchmarkMounted(b *testing.B) {
	m := mustNew(b)
	target := newTarget(b)
	mustMount(b, m, target, Options{})
	b.ReportAllocs()
	for b.Loop() {
		if id, err := m.Mounted(target); id == 0 || err != nil {
			b.Fatal(id, err)
		}
	}
}
