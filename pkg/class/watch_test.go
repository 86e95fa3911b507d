package class_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/class"
)

// patient polls so rarely that only events can make a test pass.
func patient() *class.DirOptions {
	return &class.DirOptions{Settle: 10 * time.Millisecond, Poll: time.Hour}
}

// watch runs Changes until the test ends and returns what it tells.
func watch(t testing.TB, d *class.Dir) <-chan class.Name {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	changes := make(chan class.Name, 1000)
	done := make(chan error)
	go func() { done <- d.Changes(ctx, func(name class.Name) { changes <- name }) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("Changes: %v, want nil", err)
		}
	})
	return changes
}

// await waits until the class is as wanted and was told to have changed.
func await(t testing.TB, d *class.Dir, changes <-chan class.Name, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for {
		select {
		case name := <-changes:
			if got := find(t, d, shopApp); name == shopApp && strings.Contains(got, want) {
				return
			}
		case <-deadline:
			t.Fatalf("class %s is %q and no change was told, want %q", shopApp, find(t, d, shopApp), want)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestChanges(t *testing.T) {
	edited := replace("provider: file", "provider: edit")
	tests := []struct {
		name string
		act  func(t *testing.T, dir string)
		want string
	}{
		{"a file edited in place", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "a.yaml"), edited) }, "edit"},
		{"a file replaced by rename", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, ".new"), edited)
			must(t, os.Rename(filepath.Join(dir, ".new"), filepath.Join(dir, "a.yaml")))
		}, "edit"},
		{"a file removed", func(t *testing.T, dir string) { must(t, os.Remove(filepath.Join(dir, "a.yaml"))) }, "class not found"},
		{"a class that becomes invalid", func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "a.yaml"), replace("provider: file", "provider: ''"))
		}, "spec.provider is missing"},
		{"a manifest that becomes broken", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "a.yaml"), "[") }, "not valid YAML"},
		{"a second file of the same name", func(t *testing.T, dir string) { write(t, filepath.Join(dir, "b.yaml"), edited) }, "defined more than once"},
		{"the folder replaced by rename", func(t *testing.T, dir string) {
			must(t, os.Mkdir(dir+"-new", 0o700))
			write(t, filepath.Join(dir+"-new", "a.yaml"), edited)
			must(t, os.Rename(dir, dir+"-old"))
			must(t, os.Rename(dir+"-new", dir))
		}, "edit"},
		{"the folder removed and made again", func(t *testing.T, dir string) {
			must(t, os.RemoveAll(dir))
			must(t, os.Mkdir(dir, 0o700))
			write(t, filepath.Join(dir, "a.yaml"), edited)
		}, "edit"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "classes")
			must(t, os.Mkdir(dir, 0o700))
			write(t, filepath.Join(dir, "a.yaml"), manifest)
			d := open(t, dir, patient())
			changes := watch(t, d)
			test.act(t, dir)
			await(t, d, changes, test.want)
			// The watch is on what is there now.
			write(t, filepath.Join(dir, "z.yaml"), replace("app", "z"))
			for name := range changes {
				if name.Name == "z" {
					break
				}
			}
		})
	}
}

func TestChangesTellsOnlyWhatChanged(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), manifest+"---\n"+replace("app", "web"))
	d := open(t, dir, patient())
	changes := watch(t, d)
	write(t, filepath.Join(dir, ".new"), "# only the text\n"+replace("provider: file", "provider: edit")+"---\n"+replace("app", "web"))
	must(t, os.Rename(filepath.Join(dir, ".new"), filepath.Join(dir, "a.yaml"))) // one edited in place can be seen half written
	await(t, d, changes, "edit")
	write(t, filepath.Join(dir, "b.yaml"), replace("app", "last"))
	if got := <-changes; got.Name != "last" {
		t.Errorf("change of %s, want none but of the class last", got)
	}
}

func TestChangesGathersBursts(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), manifest)
	d := open(t, dir, &class.DirOptions{Settle: 500 * time.Millisecond, Poll: time.Hour})
	changes := watch(t, d)
	for range 100 {
		write(t, filepath.Join(dir, "a.yaml"), replace("provider: file", "provider: burst"))
		write(t, filepath.Join(dir, "a.yaml"), manifest)
	}
	write(t, filepath.Join(dir, "a.yaml"), replace("provider: file", "provider: last"))
	await(t, d, changes, "last")
	if n := len(changes); n > 10 {
		t.Errorf("%d more changes told for one burst of edits, want a few", n)
	}
}

// A ConfigMap volume: the manifests are links through ..data, which kubelet
// swaps.
func TestChangesSeesAConfigMapSwapped(t *testing.T) {
	dir := t.TempDir()
	generation := func(name, content string) {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o700))
		write(t, filepath.Join(dir, name, "a.yaml"), content)
		must(t, os.Symlink(name, filepath.Join(dir, "..data_tmp")))
		must(t, os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")))
	}
	generation("..1", manifest)
	must(t, os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")))
	d := open(t, dir, patient())
	changes := watch(t, d)
	generation("..2", replace("provider: file", "provider: swap"))
	must(t, os.RemoveAll(filepath.Join(dir, "..1")))
	await(t, d, changes, "swap")
}

// A link's file outside the folder changes without an event in the folder.
func TestChangesPollsWhatItCannotHear(t *testing.T) {
	dir, elsewhere := t.TempDir(), filepath.Join(t.TempDir(), "a.yaml")
	write(t, elsewhere, manifest)
	must(t, os.Symlink(elsewhere, filepath.Join(dir, "a.yaml")))
	d := open(t, dir, &class.DirOptions{Poll: 10 * time.Millisecond})
	changes := watch(t, d)
	write(t, elsewhere, replace("provider: file", "provider: poll"))
	await(t, d, changes, "poll")
}

func TestChangesTellsWhatHappenedBeforeIt(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), manifest)
	d := open(t, dir, patient())
	write(t, filepath.Join(dir, "a.yaml"), replace("provider: file", "provider: early"))
	await(t, d, watch(t, d), "early")
}

func TestClassSeesANewFileBeforeChangesDoes(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), manifest)
	d := open(t, dir, &class.DirOptions{Settle: time.Hour, Poll: time.Hour})
	changes := watch(t, d)
	write(t, filepath.Join(dir, "b.yaml"), replace("app", "web"))
	if got := find(t, d, shopWeb); got != "file" {
		t.Errorf("a class that is new: %s, want it", got)
	}
	if n := len(changes); n > 1 { // one if Changes had not begun
		t.Errorf("%d changes told, want at most one", n)
	}
}

func BenchmarkClass(b *testing.B) {
	for _, watched := range []string{"watched", "unwatched"} {
		b.Run(watched, func(b *testing.B) {
			dir := b.TempDir()
			for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
				write(b, filepath.Join(dir, name+".yaml"), replace("app", name))
			}
			write(b, filepath.Join(dir, "app.yaml"), manifest)
			d := open(b, dir, patient())
			if watched == "watched" {
				changes := watch(b, d)
				write(b, filepath.Join(dir, "app.yaml"), replace("provider: file", "provider: ready"))
				await(b, d, changes, "ready")
			}
			for b.Loop() {
				_, _ = d.Class(b.Context(), shopApp)
			}
		})
	}
}
