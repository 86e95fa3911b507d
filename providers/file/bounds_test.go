package file

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/keymount/keymount/pkg/provider"
)

// keys returns n objects that each take a key of the file.
func keys(n int, file, key string) string {
	var list strings.Builder
	for i := range n {
		fmt.Fprintf(&list, "- {objectName: f%d, path: %s, key: %s}\n", i, file, key)
	}
	return list.String()
}

// TestADocumentIsParsedOnce counts allocations, of which each parse makes some
// for every member.
func TestADocumentIsParsedOnce(t *testing.T) {
	var members strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&members, "%q: {%q: 1},\n", fmt.Sprint("key-", i), "x")
	}
	s := newStore(t)
	s.put(t, "flat.json", "{"+members.String()+`"k": "v"}`)
	s.put(t, "nested.json", `{"a": {"b": {`+members.String()+`"k": "v"}}}`)
	s.put(t, "flat.yaml", "{"+members.String()+`"k": "v"}`)
	s.put(t, "flat.env", strings.Repeat("X=x\n", 1000)+"k=v\n")
	for file, key := range map[string]string{"flat.json": "k", "nested.json": "a.b.k", "flat.yaml": "k", "flat.env": "k"} {
		cost := func(n int) float64 {
			return testing.AllocsPerRun(1, func() {
				if got := files(fetch(t, s.provider(t, Options{}), keys(n, file, key))); len(got) != n || got["f0"].Data != "v" {
					t.Fatalf("%d keys of %s are %v", n, file, got)
				}
			})
		}
		// What the list of objects costs is the same for a document of one key.
		s.put(t, "one.json", `{"k": "v"}`)
		extra := testing.AllocsPerRun(1, func() { fetch(t, s.provider(t, Options{}), keys(20, "one.json", "k")) })
		if one, many := cost(1), cost(20); many > one+2*extra {
			t.Errorf("%s: 1 key is %v allocations and 20 are %v, of which %v are not the document's", file, one, many, extra)
		}
	}
}

// countdown is a context that ends when it is looked at for the n-th time.
type countdown struct {
	context.Context
	n int
}

func (c *countdown) Err() error {
	if c.n--; c.n > 0 {
		return nil
	}
	return context.Canceled
}

func TestAFetchEndsBetweenTwoObjectsOfAFile(t *testing.T) {
	s := newStore(t)
	s.put(t, "db.json", `{"k": "v"}`)
	p := s.provider(t, Options{})
	const n = 15
	for looks := 1; ; looks++ {
		ctx := &countdown{t.Context(), looks}
		_, err := p.Fetch(ctx, request(keys(n, "db.json", "k")))
		if err != nil {
			s.clean(t, err, provider.ErrUnavailable)
			continue
		}
		if looks < 3*n { // in two surveys, and between them
			t.Errorf("a fetch of %d objects looks at its context only %d times", n, looks)
		}
		break
	}
}

func TestAClassHasABoundedNumberOfObjects(t *testing.T) {
	s := newStore(t)
	s.put(t, "db.json", `{"k": "v"}`)
	p := s.provider(t, Options{})
	if got := fetch(t, p, keys(1024, "db.json", "k")); len(got.Files) != 1024 {
		t.Errorf("%d files, want 1024", len(got.Files))
	}
	_, err := p.Fetch(t.Context(), request(keys(1025, "db.json", "k")))
	s.clean(t, err, provider.ErrInvalid)
	if want := "objects lists 1025 objects, and the limit is 1024: invalid"; err.Error() != want {
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestPathsHaveABoundedNumberOfElements(t *testing.T) {
	deep := strings.Repeat("d/", 31)
	s := newStore(t)
	s.put(t, "a", "v")
	s.put(t, deep+"a", "v")
	p := s.provider(t, Options{})
	for _, objects := range []string{"[{path: a, objectName: " + deep + "a}]", "[{path: " + deep + "a}]", "[{path: d/}]"} {
		fetch(t, p, objects)
	}
	for objects, want := range map[string]string{
		"[{path: a, objectName: d/" + deep + "a}]": "objects[0]: objectName has more than 32 elements",
		"[{path: d/" + deep + "a}]":                "objects[0]: path has more than 32 elements",
		"[{path: d/" + deep + "}]":                 "", // a folder that is not there
		"[{path: d/, objectName: x/y}]":            `its name has more than 32 elements`,
	} {
		_, err := p.Fetch(t.Context(), request(objects))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %q", objects, err, want)
		}
	}
}

func TestAKeyLeadsThroughABoundedNumberOfMaps(t *testing.T) {
	s := newStore(t)
	value := s.canary()
	for _, maps := range []int{16, 17} {
		s.put(t, fmt.Sprint(maps, ".json"), strings.Repeat(`{"k":`, maps)+`"`+value+`"`+strings.Repeat("}", maps))
	}
	p := s.provider(t, Options{})
	if got := files(fetch(t, p, keys(1, "16.json", "k"+strings.Repeat(".k", 15)))); got["f0"].Data != value {
		t.Errorf("files %v, want the value", got)
	}
	_, err := p.Fetch(t.Context(), request(keys(1, "17.json", "k"+strings.Repeat(".k", 16))))
	s.clean(t, err, provider.ErrInvalid)
	if !strings.Contains(err.Error(), "leads through more than 16 maps") {
		t.Errorf("error %v, want one that names the limit", err)
	}
	// Dots that lead nowhere are a key that is not there.
	_, err = p.Fetch(t.Context(), request(keys(1, "16.json", "x"+strings.Repeat(".k", 40))))
	s.clean(t, err, provider.ErrNotFound)
}

// TestOneFileTakenManyTimesIsBoundedBeforeItIsCopied has one object fail after
// the bound is reached: what is read no further is not seen.
func TestOneFileTakenManyTimesIsBoundedBeforeItIsCopied(t *testing.T) {
	s := newStore(t)
	s.put(t, "db.json", `{"k": "`+strings.Repeat("v", 64)+`", "bad": "-"}`)
	list := keys(25, "db.json", "k") + "- {objectName: hex, path: db.json, key: bad, encoding: hex}\n" // 1600 bytes fit
	_, err := s.provider(t, Options{MaxFileSize: 100}).Fetch(t.Context(), request(list))
	if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), "is not hex") {
		t.Errorf("as much as fits: error %v, want that of the last object", err)
	}
	_, err = s.provider(t, Options{MaxFileSize: 100}).Fetch(t.Context(), request("- {objectName: more, path: db.json, key: k}\n"+list))
	if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), `object "f24": file "db.json" in namespace "shop": the volume is larger than 1600 bytes`) {
		t.Errorf("more than fits: error %v, want that of the volume", err)
	}
}
