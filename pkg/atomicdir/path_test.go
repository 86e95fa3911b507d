package atomicdir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestValidPath(t *testing.T) {
	long := strings.Repeat("a", maxElement)
	deep := strings.Repeat("a/", maxDepth-1) + "a"
	valid := []string{"a", "a/b", ".a", "a..", "a/b..c", "a b", "-", "\xff", "ü/é", long, long + "/" + long, deep}
	for _, name := range valid {
		if err := ValidPath(name); err != nil {
			t.Errorf("ValidPath(%q) = %v, want nil", name, err)
		}
	}
	invalid := map[string]string{
		"empty":                        "",
		"the directory":                ".",
		"the parent":                   "..",
		"below the parent":             "../a",
		"parent inside":                "a/../b",
		"parent at the end":            "a/..",
		"absolute":                     "/a",
		"only a slash":                 "/",
		"two slashes":                  "a//b",
		"slash at the end":             "a/",
		"dot in front":                 "./a",
		"dot inside":                   "a/./b",
		"the link to the data":         "..data",
		"the temporary link":           "..data_tmp",
		"below the data":               "..data/a",
		"two dots in front":            "..a",
		"two dots in front, inside":    "a/..b/c",
		"three dots":                   "...",
		"NUL":                          "a\x00b",
		"line feed":                    "a\nb",
		"escape":                       "a\x1b[2J",
		"delete":                       "a\x7f",
		"control character of Unicode": "a\u0085b",
		"over-long element":            long + "a",
		"over-long element inside":     "a/" + long + "a/b",
		"too many elements":            "a/" + deep,
		"over-long path":               strings.Repeat("a/", maxPath/2) + "a",
	}
	for why, name := range invalid {
		if err := ValidPath(name); !errors.Is(err, ErrPath) {
			t.Errorf("%s: ValidPath(%q) = %v, want ErrPath", why, name, err)
		}
	}
}

func TestValidateLooksAtTheWholeSet(t *testing.T) {
	tests := []struct {
		name  string
		files []File
		want  string // in the error
	}{
		{"no files", nil, ""},
		{"files beside each other", []File{{Path: "a/b"}, {Path: "a/c", Mode: 0o777}, {Path: "a-"}}, ""},
		{"a path twice", []File{{Path: "a"}, {Path: "b"}, {Path: "a"}}, `"a": it is there twice`},
		{"a file, then a file below it", []File{{Path: "a/b"}, {Path: "a/b/c/d"}}, `"a/b": it is also a directory of "a/b/c/d"`},
		{"a file, then a directory of it", []File{{Path: "a/b/c"}, {Path: "a"}}, `"a": it is also a directory`},
		{"the set-user-ID bit", []File{{Path: "a", Mode: 0o644 | fs.ModeSetuid}}, `"a": the mode`},
		{"the number of the set-user-ID bit", []File{{Path: "a", Mode: 0o4755}}, `"a": the mode 04755`},
		{"a directory", []File{{Path: "a", Mode: fs.ModeDir | 0o755}}, `"a": the mode`},
		{"a bad path", []File{{Path: "a"}, {Path: "../b"}}, `"../b"`},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			err := Validate(modes(test.files))
			if test.want == "" {
				if err != nil {
					t.Errorf("Validate = %v, want nil", err)
				}
				return
			}
			if !errors.Is(err, ErrPath) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Validate = %v, want ErrPath with %q", err, test.want)
			}
			dir := memDir(t)
			if changed, got := Write(dir, test.files, nil); changed || !errors.Is(got, ErrPath) || len(names(t, dir)) > 0 {
				t.Errorf("Write = %v, %v; the directory holds %q", changed, got, names(t, dir))
			}
		})
	}
}

// Whatever the paths: nothing appears outside of the directory, and what is
// accepted can be read back.
func FuzzWrite(f *testing.F) {
	for _, pair := range [][2]string{
		{"a", "b"}, {"a", "a/b"}, {"a/b", "a"}, {"../x", "a"}, {"/x", ""}, {".", ".."}, {"..data", "..data/a"},
		{"..data_tmp", "a"}, {"a/../../x", "x//y"}, {"a\x00b", "\xff"}, {"a-b", "a/b"}, {strings.Repeat("d/", 500) + "x", "d/y"},
		{strings.Repeat("d/", maxDepth-1) + "x", "d/y"}, {strings.Repeat("d/", maxDepth) + "x", "d"},
	} {
		f.Add(pair[0], pair[1], uint32(0o644))
	}
	f.Add("a", "b", uint32(0o4755))
	f.Fuzz(func(t *testing.T, one, two string, mode uint32) {
		sandbox := memDir(t)
		dir := filepath.Join(sandbox, "in", "dir")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		files := []File{{one, fs.FileMode(mode), []byte(one)}, {two, 0o600, []byte(two)}}
		valid := Validate(modes(files))
		if _, err := Write(dir, files, nil); (err == nil) != (valid == nil) {
			t.Fatalf("Write(%q, %q, %#o) = %v, but Validate = %v", one, two, mode, err, valid)
		}
		if valid == nil && mode&0o400 != 0 {
			if diff := cmp.Diff(contentOf(files, os.Getegid()), visible(t, dir)); diff != "" {
				t.Errorf("files (-want +got):\n%s", diff)
			}
		}
		if valid != nil && len(names(t, dir)) > 0 {
			t.Errorf("a refused Write left %q", names(t, dir))
		}
		if diff := cmp.Diff([]string{"in", "dir"}, append(names(t, sandbox), names(t, filepath.Join(sandbox, "in"))...)); diff != "" {
			t.Errorf("outside (-want +got):\n%s", diff)
		}
	})
}
