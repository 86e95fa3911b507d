package file

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
)

// again fetches with what bundle's volume holds.
func again(t testing.TB, p provider.Provider, objects string, held provider.Versions) *provider.Bundle {
	t.Helper()
	req := request(objects)
	req.Held.Versions = held
	bundle, err := p.Fetch(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

func TestVersionsTellWhatChanged(t *testing.T) {
	const objects = "[{objectName: a}, {path: db.json, key: x}, {objectName: o, optional: true}, {path: certs/}]"
	for _, test := range []struct {
		name    string
		objects string // of the second fetch
		change  func(t *testing.T, s *store)
		want    []string // IDs whose versions changed, came or went
	}{
		{"nothing", objects, func(*testing.T, *store) {}, nil},
		{"the same bytes in a new file", objects, func(t *testing.T, s *store) { s.put(t, "a", "same") }, nil},
		{"a key that the volume does not use", objects, func(t *testing.T, s *store) { s.put(t, "db.json", `{"x": "same", "y": "new"}`) }, nil},
		{"a file", objects, func(t *testing.T, s *store) { s.put(t, "a", "new") }, []string{"shop/a"}},
		{"a key", objects, func(t *testing.T, s *store) { s.put(t, "db.json", `{"x": "new"}`) }, []string{"shop/db.json"}},
		{"an optional file that comes", objects, func(t *testing.T, s *store) { s.put(t, "o", "") }, []string{"shop/o"}},
		{"a file that comes into a folder", objects, func(t *testing.T, s *store) { s.put(t, "certs/2", "same") }, []string{"shop/certs/", "shop/certs/2"}},
		{"another name", strings.Replace(objects, "objectName: a", "objectName: b, path: a", 1), func(*testing.T, *store) {}, []string{"shop/a"}},
		{"another mode", strings.Replace(objects, "objectName: a", "objectName: a, filePermission: 0400", 1), func(*testing.T, *store) {}, []string{"shop/a"}},
		{"a second key", objects[:len(objects)-1] + ", {objectName: y, path: db.json, key: x}]", func(*testing.T, *store) {}, []string{"shop/db.json"}},
		{"one object less", "[{objectName: a}, {objectName: o, optional: true}, {path: certs/}]", func(*testing.T, *store) {}, []string{"shop/db.json"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			s.put(t, "a", "same")
			s.put(t, "db.json", `{"x": "same"}`)
			s.put(t, "certs/1", "same")
			p := s.provider(t, Options{})
			before := fetch(t, p, objects).Versions
			test.change(t, s)
			bundle := again(t, p, test.objects, before)
			var changed []string
			for _, id := range []string{"shop/a", "shop/certs/", "shop/certs/1", "shop/certs/2", "shop/db.json", "shop/o"} {
				if before[id] != bundle.Versions[id] {
					changed = append(changed, id)
				}
			}
			if diff := cmp.Diff(test.want, changed); diff != "" {
				t.Errorf("changed versions, -want +got\n%s", diff)
			}
			if unchanged := test.want == nil; bundle.Unchanged != unchanged || unchanged != (bundle.Files == nil) {
				t.Errorf("Unchanged is %v with %d files, want %v", bundle.Unchanged, len(bundle.Files), unchanged)
			}
		})
	}
}

func TestEqualValuesOfDifferentObjectsHaveDifferentVersions(t *testing.T) {
	s := newStore(t)
	s.put(t, "a", "same")
	s.put(t, "b", "same")
	versions := fetch(t, s.provider(t, Options{}), "[{objectName: a}, {objectName: b}]").Versions
	if versions["shop/a"] == versions["shop/b"] {
		t.Errorf("versions are equal: %v", versions)
	}
	other := fetch(t, s.provider(t, Options{}), "[{objectName: a}, {objectName: b}]").Versions
	if other["shop/a"] == versions["shop/a"] {
		t.Error("two providers have the same key")
	}
}

// A poll of an unchanged encrypted file works without the identity, so it
// does not decrypt.
func TestAnUnchangedPollLooksAtAttributesOnly(t *testing.T) {
	s := newStore(t)
	identity := x25519(t)
	key := keyFile(t, identity.String())
	s.put(t, "a.age", seal(t, s.canary(), identity.Recipient()))
	p := s.provider(t, Options{Identities: []string{key}})
	held := fetch(t, p, "[{objectName: a}]").Versions
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	if bundle := again(t, p, "[{objectName: a}]", held); !bundle.Unchanged {
		t.Errorf("bundle %+v, want it unchanged", bundle)
	}
	if _, err := p.Fetch(t.Context(), request("[{objectName: a}]")); err == nil {
		t.Error("a first fetch did not need the identity")
	}
}

func TestAFreshChangeIsNotTrustedByItsAttributes(t *testing.T) {
	s := newStore(t)
	s.put(t, "a", "old")
	p := s.provider(t, Options{})
	p.versions.settle = settleTime
	held := fetch(t, p, "[{objectName: a}]").Versions
	if len(p.versions.cache) != 0 {
		t.Errorf("%d versions remembered, want none of a file this fresh", len(p.versions.cache))
	}
	if bundle := again(t, p, "[{objectName: a}]", held); !bundle.Unchanged {
		t.Errorf("bundle %+v, want it unchanged", bundle)
	}
}

func TestRememberedVersionsAreBounded(t *testing.T) {
	s := newStore(t)
	s.put(t, "a", "x")
	p := s.provider(t, Options{})
	for i := range maxVersions {
		p.versions.cache[fmt.Sprint(i)] = cached{}
	}
	fetch(t, p, "[{objectName: a}]")
	if got := len(p.versions.cache); got != 1 {
		t.Errorf("%d versions remembered, want only the last", got)
	}
}

func TestKubeletVolumesAreFollowed(t *testing.T) {
	s := newStore(t)
	s.put(t, "..1/db", "one")
	s.put(t, "..1/sub/x", "one")
	link := func(target, name string) {
		t.Helper()
		temporary := filepath.Join(s.root, "shop", "..new")
		if err := os.Symlink(target, temporary); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(temporary, filepath.Join(s.root, "shop", name)); err != nil {
			t.Fatal(err)
		}
	}
	link("..1", "..data")
	link("..data/db", "db")
	link("..data/sub", "sub")
	p := s.provider(t, Options{})
	first := fetch(t, p, "[{path: ./}]")
	s.put(t, "..2/db", "two")
	s.put(t, "..2/sub/x", "two")
	link("..2", "..data")
	second := again(t, p, "[{path: ./}]", first.Versions)
	want := []map[string]got{
		{"db": {0o640, "one"}, "sub/x": {0o640, "one"}},
		{"db": {0o640, "two"}, "sub/x": {0o640, "two"}},
	}
	if diff := cmp.Diff(want, []map[string]got{files(first), files(second)}); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// Two files that always change together, by a swap of the link to their
// folder, are never seen apart.
func TestABundleIsOfOneMoment(t *testing.T) {
	s := newStore(t)
	for _, state := range []string{"1", "2"} {
		s.put(t, state+"/user", state)
		s.put(t, state+"/password", state)
	}
	swap := func(state string) {
		temporary, name := filepath.Join(s.root, "shop", ".new"), filepath.Join(s.root, "shop", "now")
		_ = os.Symlink(state, temporary)
		_ = os.Rename(temporary, name)
	}
	swap("1")
	p := s.provider(t, Options{})
	stop := make(chan struct{})
	var writer, readers sync.WaitGroup
	writer.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
				swap(fmt.Sprint(1 + i%2))
			}
		}
	})
	for range 4 {
		readers.Go(func() {
			for range 40 {
				bundle, err := p.Fetch(t.Context(), request("[{path: now/user}, {path: now/password}]"))
				if err != nil {
					if provider.Reason(err) != "Unavailable" {
						t.Errorf("error %v, want success or ErrUnavailable", err)
					}
					continue
				}
				if all := files(bundle); all["user"] != all["password"] {
					t.Errorf("mixed: %v", all)
				}
			}
		})
	}
	readers.Wait()
	close(stop)
	writer.Wait()
}

// A writer's temporary files in a folder never make a fetch fail for good.
func TestAFolderMayChangeWhileItIsRead(t *testing.T) {
	s := newStore(t)
	s.put(t, "certs/a", "A")
	p := s.provider(t, Options{})
	stop := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for temporary := filepath.Join(s.root, "shop/certs/new"); ; {
			select {
			case <-stop:
				return
			default:
				_ = os.WriteFile(temporary, nil, 0o644)
				_ = os.Remove(temporary)
			}
		}
	})
	for range 50 {
		bundle, err := p.Fetch(t.Context(), request("[{path: certs/}]"))
		switch {
		case err != nil && provider.Reason(err) != "Unavailable":
			t.Errorf("error %v, want success or ErrUnavailable", err)
		case err == nil && files(bundle)["a"].Data != "A":
			t.Errorf("files %v, want a among them", files(bundle))
		}
	}
	close(stop)
	writer.Wait()
}
