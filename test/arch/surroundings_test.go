package arch

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"testing"
	"testing/fstest"
)

// surroundings are the marks of the machine on which the product was built,
// written so that this file has none of them.
var surroundings = []string{
	"../" + "shared", "/work/" + "main", "/work/" + "shared", "/.lib" + "rary", "farm-" + "bench", "farm-" + "studio", "/tmp/" + "brief",
}

// unread are the folders that are no part of the repository.
var unread = []string{".git", "bin", ".cache"}

func TestTheProductDoesNotNameWhereItWasBuilt(t *testing.T) {
	report(t, surroundingViolations(t, os.DirFS("../..")))
}

func surroundingViolations(t *testing.T, root fs.FS) (violations []string) {
	t.Helper()
	err := fs.WalkDir(root, ".", func(p string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && slices.Contains(unread, p):
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		text, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		for _, mark := range surroundings {
			if i := bytes.Index(text, []byte(mark)); i >= 0 && !executable(text) {
				violations = append(violations, fmt.Sprintf("%s:%d mentions %s", p, bytes.Count(text[:i], []byte("\n"))+1, mark))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return violations
}

// executable reports whether a file is a binary that somebody built here.
func executable(text []byte) bool { return bytes.HasPrefix(text, []byte("\x7fELF")) }

func TestSurroundingsAreFound(t *testing.T) {
	for _, mark := range surroundings {
		root := fstest.MapFS{path.Join("docs", "a.md"): {Data: []byte("one\nsee " + mark + "x\n")}}
		if got := surroundingViolations(t, root); len(got) != 1 || got[0] != "docs/a.md:2 mentions "+mark {
			t.Errorf("violations of a file with %q = %q", mark, got)
		}
	}
}
