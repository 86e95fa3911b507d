package class_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/class"
)

var (
	shopApp = class.Name{Namespace: "shop", Name: "app"}
	shopWeb = class.Name{Namespace: "shop", Name: "web"}
)

// write replaces the content of the file in place, and dates it back so far
// that its age cannot be the reason to read it again.
func write(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	backdated += time.Second
	date := time.Now().Add(backdated - 24*time.Hour)
	if err := os.Chtimes(path, date, date); err != nil {
		t.Fatal(err)
	}
}

var backdated time.Duration // differs for each write

func open(t testing.TB, dir string, opts *class.DirOptions) *class.Dir {
	t.Helper()
	d, err := class.OpenDir(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// find returns the provider of the class, or the text of the error.
func find(t testing.TB, d *class.Dir, name class.Name) string {
	t.Helper()
	c, err := d.Class(t.Context(), name)
	if err != nil {
		return err.Error()
	}
	return c.Provider
}

func TestDirReadsAllManifests(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "a.yaml"), manifest)
	write(t, filepath.Join(dir, "b.yml"), replace("app", "web"))
	write(t, filepath.Join(dir, "c.json"), `{"apiVersion":"secrets-store.csi.x-k8s.io/v1","kind":"SecretProviderClass","metadata":{"name":"json"},"spec":{"provider":"file"}}`)
	write(t, filepath.Join(dir, ".hidden.yaml"), replace("app", "hidden"))
	write(t, filepath.Join(dir, "README.md"), replace("app", "readme"))
	if err := os.Mkdir(filepath.Join(dir, "folder.yaml"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "dangling.yaml")); err != nil {
		t.Fatal(err)
	}
	d := open(t, dir, nil)
	for _, name := range []class.Name{shopApp, shopWeb, {Namespace: "default", Name: "json"}} {
		if got := find(t, d, name); got != "file" {
			t.Errorf("class %s: %s, want it", name, got)
		}
	}
	for _, name := range []class.Name{{Namespace: "shop", Name: "hidden"}, {Namespace: "shop", Name: "readme"}, {Namespace: "default", Name: "app"}, {}} {
		if _, err := d.Class(t.Context(), name); !errors.Is(err, class.ErrNotFound) {
			t.Errorf("class %s: error %v, want ErrNotFound", name, err)
		}
	}
}

func TestOpenDirWantsAFolder(t *testing.T) {
	_, err := class.OpenDir(filepath.Join(t.TempDir(), "none"), nil)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("OpenDir: error %v, want ErrNotExist", err)
	}
}

func TestInvalidManifestsHarmOnlyTheirClass(t *testing.T) {
	tests := []struct {
		name, content string
		class         class.Name
		want          string
	}{
		{"an invalid class is named with its place", "kind: Pod\n---\n" + strings.Replace(manifest, "provider: file", "provider: ''", 1), shopApp, "bad.yaml, document 2: spec.provider is missing"},
		{"a class defined twice names both files", replace("app", "web"), shopWeb, "good.yaml, document 2): keep one"},
		{"a broken manifest explains a missing class", "x: [\n", shopApp, "bad.yaml, document 1: it is not valid YAML"},
		{"a manifest that is too big is said to be", strings.Repeat("#", 1<<20+1), shopApp, "bad.yaml: it has more than 1048576 bytes"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, filepath.Join(dir, "bad.yaml"), test.content)
			write(t, filepath.Join(dir, "good.yaml"), replace("app", "good")+"---\n"+replace("app", "web"))
			d := open(t, dir, nil)
			_, err := d.Class(t.Context(), test.class)
			if !errors.Is(err, class.ErrInvalid) || errors.Is(err, class.ErrNotFound) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("class %s: error %v, want ErrInvalid with %q", test.class, err, test.want)
			}
			if got := find(t, d, class.Name{Namespace: "shop", Name: "good"}); got != "file" {
				t.Errorf("the valid class: %s, want it", got)
			}
		})
	}
}

func TestAPipeDoesNotBlock(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe.yaml"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, dir, nil).Class(t.Context(), shopApp)
	if want := "pipe.yaml: it is not a regular file"; !errors.Is(err, class.ErrInvalid) || !strings.Contains(err.Error(), want) {
		t.Errorf("Class: error %v, want ErrInvalid with %q", err, want)
	}
}

func TestTooManyBytesAreRefused(t *testing.T) {
	dir := t.TempDir()
	for i := range 65 {
		write(t, filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), "#\n")
		if err := os.Truncate(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), 1<<20); err != nil {
			t.Fatal(err)
		}
	}
	_, err := class.OpenDir(dir, nil)
	if want := "more than 67108864 bytes"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("OpenDir: error %v, want %q", err, want)
	}
}

// Nobody runs Changes here.
func TestClassSeesEditsUnwatched(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.yaml")
	write(t, path, manifest)
	d := open(t, dir, nil)
	first, err := d.Class(t.Context(), shopApp)
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.Class(t.Context(), shopApp)
	if err != nil || again != first {
		t.Errorf("Class of an untouched file = %p, %v, want %p from memory", again, err, first)
	}

	write(t, path, replace("provider: file", "provider: edit"))
	if got := find(t, d, shopApp); got != "edit" {
		t.Errorf("after an edit: %s, want edit", got)
	}
	write(t, filepath.Join(dir, "new"), replace("provider: file", "provider: move"))
	if err := os.Rename(filepath.Join(dir, "new"), path); err != nil {
		t.Fatal(err)
	}
	if got := find(t, d, shopApp); got != "move" {
		t.Errorf("after a rename: %s, want move", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Class(t.Context(), shopApp); !errors.Is(err, class.ErrNotFound) {
		t.Errorf("after the removal: error %v, want ErrNotFound", err)
	}
}

// Edits of equal size can share a time of modification.
func TestClassSeesManyEditsOfOneInstant(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	write(t, path, manifest)
	d := open(t, filepath.Dir(path), nil)
	instant := time.Now()
	for i := range 50 {
		want := fmt.Sprintf("f%03d", i)
		write(t, path, replace("provider: file", "provider: "+want))
		if err := os.Chtimes(path, instant, instant); err != nil {
			t.Fatal(err)
		}
		if got := find(t, d, shopApp); got != want {
			t.Errorf("after edit %d: %s, want %s", i, got, want)
		}
	}
}

func TestAFolderThatIsGoneIsNotEmpty(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "classes")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "a.yaml"), manifest)
	d := open(t, dir, nil)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if got := find(t, d, shopApp); got != "file" {
		t.Errorf("a known class: %s, want it", got)
	}
	_, err := d.Class(t.Context(), shopWeb)
	if err == nil || errors.Is(err, class.ErrNotFound) || errors.Is(err, class.ErrInvalid) {
		t.Errorf("an unknown class: error %v, want one that is not final", err)
	}
}

func TestDirIsSafeForConcurrentUse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	write(t, path, manifest)
	d := open(t, filepath.Dir(path), nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 50 {
				if got := find(t, d, shopApp); got != "file" {
					t.Errorf("class: %s, want it", got)
				}
				_, _ = d.Class(t.Context(), shopWeb)
			}
		})
	}
	for range 50 {
		next := filepath.Join(filepath.Dir(path), "next")
		write(t, next, manifest+"# \n")
		if err := os.Rename(next, path); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

func TestReturnedClassesStay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	write(t, path, manifest)
	d := open(t, filepath.Dir(path), nil)
	before, err := d.Class(t.Context(), shopApp)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, replace("provider: file", "provider: edit"))
	if got := find(t, d, shopApp); got != "edit" {
		t.Fatalf("after an edit: %s, want edit", got)
	}
	if diff := cmp.Diff(app(), before, ignoreRevision); diff != "" {
		t.Errorf("the class returned before the edit (-want +got):\n%s", diff)
	}
}
