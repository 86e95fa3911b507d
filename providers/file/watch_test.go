package file

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keymount/keymount/pkg/provider"
)

// watch starts to watch the store, and returns the IDs that are told. It ends
// with the test.
func watch(t *testing.T, s *store) <-chan string {
	t.Helper()
	w, err := newWatcher(s.root)
	if err != nil {
		t.Fatal(err)
	}
	ids, done := make(chan string, 1000), make(chan error)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer w.close()
		done <- w.run(ctx, func(id string) { ids <- id })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("run ended with %v", err)
		}
	})
	return ids
}

// until collects IDs until want is among them.
func until(t *testing.T, ids <-chan string, want string) []string {
	t.Helper()
	var all []string
	for {
		select {
		case id := <-ids:
			all = append(all, id)
			if id == want {
				slices.Sort(all)
				return slices.Compact(all)
			}
		case <-t.Context().Done():
			t.Fatalf("got %q and not %q", all, want)
		}
	}
}

// last is an object ID that is told after all others of the same burst.
const last = "aaa/end"

// tells makes a change and then one of the last object, and compares what was
// told of the first.
func tells(t *testing.T, s *store, ids <-chan string, change func(), want ...string) {
	t.Helper()
	change()
	write(t, s, last, "new")
	got := slices.DeleteFunc(until(t, ids, last), func(id string) bool { return id == last })
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("told, -want +got\n%s", diff)
	}
}

func TestChangesTellsObjectIDs(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(t *testing.T, s *store)
		want   []string
	}{
		{"a file written in place", func(t *testing.T, s *store) { write(t, s, "shop/a", "new") }, []string{"shop/a"}},
		{"an encrypted file written in place", func(t *testing.T, s *store) { write(t, s, "shop/db.json.age", "new") }, []string{"shop/db.json"}},
		{"a file replaced", func(t *testing.T, s *store) { rename(t, s, ".git/other", "shop/a") }, []string{"shop/", "shop/a"}},
		{"a file in a folder", func(t *testing.T, s *store) { write(t, s, "shop/certs/deep/x", "new") }, []string{"shop/certs/deep/x"}},
		{"a new file in a folder", func(t *testing.T, s *store) { rename(t, s, ".git/other", "shop/certs/deep/y") },
			[]string{"shop/", "shop/certs/", "shop/certs/deep/", "shop/certs/deep/y"}},
		{"a file removed", func(t *testing.T, s *store) { remove(t, s, "shop/certs/deep/x") }, []string{"shop/", "shop/certs/", "shop/certs/deep/", "shop/certs/deep/x"}},
		{"a file of another namespace", func(t *testing.T, s *store) { write(t, s, "blog/a", "new") }, []string{"blog/a"}},
		{"permissions", func(t *testing.T, s *store) { chmod(t, s, "shop/a", 0o600) }, []string{"shop/a"}},
		{"a folder that is not a namespace", func(t *testing.T, s *store) { write(t, s, ".git/index", "new") }, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			for _, name := range []string{"shop/a", last, "shop/db.json.age", "shop/certs/deep/x", "blog/a", ".git/index", ".git/other"} {
				s.putRoot(t, name, "old")
			}
			ids := watch(t, s)
			tells(t, s, ids, func() { test.change(t, s) }, test.want...)
		})
	}
}

func TestChangesTellsWhenAnythingMayHaveChanged(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, s *store){
		"the policy":      func(t *testing.T, s *store) { write(t, s, policyName, "new") },
		"a new namespace": func(t *testing.T, s *store) { s.putRoot(t, "news/a", "new") },
		"a folder moved":  func(t *testing.T, s *store) { rename(t, s, "shop/certs", "shop/keys") },
		"a new link":      func(t *testing.T, s *store) { symlink(t, s, "a", "shop/link") },
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			s.put(t, "a", "old")
			s.put(t, "certs/a", "old")
			s.putRoot(t, policyName, "old")
			ids := watch(t, s)
			change(t, s)
			until(t, ids, "")
		})
	}
}

func TestChangesFollowsFoldersThatComeLater(t *testing.T) {
	s := newStore(t)
	ids := watch(t, s)
	s.put(t, "x/y/z/file", "new")
	until(t, ids, "shop/x/y/z/file")
	write(t, s, "shop/x/y/z/file", "newer")
	until(t, ids, "shop/x/y/z/file")

	rename(t, s, "shop/x/y", "shop/moved")
	until(t, ids, "")
	write(t, s, "shop/moved/z/file", "newest")
	until(t, ids, "shop/moved/z/file")
}

func TestChangesTellsEverythingInAStoreWithLinks(t *testing.T) {
	s := newStore(t)
	s.put(t, "v1/db", "one")
	symlink(t, s, "v1", "shop/current")
	ids := watch(t, s)
	write(t, s, "shop/v1/db", "two") // is shop/current/db, too
	until(t, ids, "")
}

func TestChangesFollowsARootThatIsALink(t *testing.T) {
	s := newStore(t)
	s.putRoot(t, "v1/shop/a", "one")
	s.putRoot(t, "v2/shop/a", "two")
	symlink(t, s, "v1", "live")
	ids := watch(t, &store{root: filepath.Join(s.root, "live")})
	write(t, s, "live/shop/a", "new")
	until(t, ids, "shop/a")
	symlink(t, s, "v2", "live.new")
	rename(t, s, "live.new", "live")
	until(t, ids, "")
	write(t, s, "v2/shop/a", "newer")
	until(t, ids, "shop/a")
}

func TestChangesEndsWithItsContext(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.provider(t, Options{}).Changes(ctx, func(string) {}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestChangesEndsWhenTheStoreIsGone(t *testing.T) {
	s := newStore(t)
	p := s.provider(t, Options{})
	w, err := newWatcher(s.root)
	if err != nil {
		t.Fatal(err)
	}
	defer w.close()
	if err := os.RemoveAll(s.root); err != nil {
		t.Fatal(err)
	}
	s.clean(t, w.run(t.Context(), func(string) {}), provider.ErrUnavailable)
	s.clean(t, p.Changes(t.Context(), func(string) {}), provider.ErrUnavailable)
}

// What Changes tells is in the versions of the volumes that it concerns.
func TestChangesTellsIDsThatVolumesHold(t *testing.T) {
	s := newStore(t)
	s.put(t, "db.json.age", "sealed")
	s.put(t, "certs/a", "A")
	s.put(t, "tls/deep/b", "B")
	p := s.provider(t, Options{})
	versions := fetch(t, p, "[{path: certs/}, {path: tls/}, {objectName: later, optional: true}]").Versions
	ids := watch(t, s)
	for _, name := range []string{"certs/a", "certs/new", "tls/deep/b", "tls/deeper/new", "later"} {
		s.put(t, name, "new")
		for id := range ids {
			if _, held := versions[id]; held {
				break
			}
		}
	}
}

func write(t *testing.T, s *store, name, content string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(s.root, name), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteString(content)
	check(t, errors.Join(err, f.Close()))
}

func rename(t *testing.T, s *store, from, to string) {
	t.Helper()
	check(t, os.Rename(filepath.Join(s.root, from), filepath.Join(s.root, to)))
}

func remove(t *testing.T, s *store, name string) {
	t.Helper()
	check(t, os.Remove(filepath.Join(s.root, name)))
}

func chmod(t *testing.T, s *store, name string, mode os.FileMode) {
	t.Helper()
	check(t, os.Chmod(filepath.Join(s.root, name), mode))
}

func symlink(t *testing.T, s *store, target, name string) {
	t.Helper()
	check(t, os.Symlink(target, filepath.Join(s.root, name)))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
