package file

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
)

// refusals are requests to the store of TestFetchRefuses.
var refusals = []struct {
	name, objects string
	want          error
	text          string // in the error
}{
	{"a missing file", "[{objectName: db-password, path: no.json, key: password}]", provider.ErrNotFound, `object "db-password": file "no.json" in namespace "shop": not found`},
	{"a missing key without naming those there", "[{objectName: db-password, path: db.json, key: pasword}]", provider.ErrNotFound,
		`object "db-password": file "db.json" in namespace "shop": key "pasword" is not one of its 2 keys: not found`},
	{"a key below text", "[{path: db.json, key: password.x}]", provider.ErrNotFound, "is not one of its 2 keys"},
	{"a file below a file", "[{path: plain/x}]", provider.ErrNotFound, "not found"},
	{"a missing folder", "[{path: no/}]", provider.ErrNotFound, `object "no/": file "no" in namespace "shop": not found`},
	{"a dangling link", "[{path: dangling}]", provider.ErrNotFound, ""},
	{"a dangling link in a folder", "[{path: dead/}]", provider.ErrNotFound, `"dead/dangling"`},
	{"a dangling link in an optional folder", "[{path: dead/, optional: true}]", provider.ErrNotFound, `"dead/dangling"`},
	{"a link out of the namespace", "[{path: out}]", provider.ErrDenied, "leads out of the namespace's folder"},
	{"a link to the root of the store", "[{path: up}]", provider.ErrDenied, "leads out"},
	{"a path through a link out", "[{path: outdir/secret}]", provider.ErrDenied, "leads out"},
	{"a folder through a link out", "[{path: outdir/}]", provider.ErrDenied, "leads out"},
	{"a link out in a folder", "[{path: bad/}]", provider.ErrDenied, `"bad/out": leads out`},
	{"an absolute link", "[{path: absolute}]", provider.ErrDenied, "leads out"},
	{"a link out, although optional", "[{path: out, optional: true}]", provider.ErrDenied, "leads out"},
	{"a link to itself", "[{path: loop}]", provider.ErrInvalid, ""},
	{"a cycle of folders", "[{path: cycle/}]", provider.ErrInvalid, "symbolic link from a folder to one above"},
	{"dots in the path", "[{path: ../other/secret}]", provider.ErrInvalid, "objects[0]: path must be clean"},
	{"dots in the middle", "[{path: certs/../../other/secret}]", provider.ErrInvalid, "must be clean"},
	{"dots that stay inside", "[{path: certs/../plain}]", provider.ErrInvalid, "must be clean"},
	{"dots as a folder", "[{path: ../other/}]", provider.ErrInvalid, "must be clean"},
	{"an absolute path", "[{path: /etc/passwd}]", provider.ErrInvalid, "must be relative"},
	{"an absolute folder", "[{path: /}]", provider.ErrInvalid, ""},
	{"NUL in the path", `[{path: "a\0b"}]`, provider.ErrInvalid, "without control characters"},
	{"a long path", "[{path: " + strings.Repeat("a/", 2100) + "a}]", provider.ErrInvalid, "longer than 4096"},
	{"a long element", "[{path: " + strings.Repeat("a", 256) + "}]", provider.ErrInvalid, "longer than 255"},
	{"no path", "[{encoding: hex}]", provider.ErrInvalid, "path or objectName must be set"},
	{"an absolute name", "[{objectName: /x, path: plain}]", provider.ErrInvalid, "objectName must be relative"},
	{"dots in the name", "[{objectName: a/../../x, path: plain}]", provider.ErrInvalid, "objectName must be clean"},
	{"kubelet's names", "[{objectName: ..data, path: plain}]", provider.ErrInvalid, "two dots"},
	{"NUL in the name", `[{objectName: "a\0", path: plain}]`, provider.ErrInvalid, "objectName must be text without control characters"},
	{"a key as a name that cannot be", "[{path: db.json, key: ../x}]", provider.ErrInvalid, "objectName must be clean"},
	{"a folder without its slash", "[{path: certs}]", provider.ErrInvalid, "written with a slash at the end"},
	{"a file with a slash", "[{path: plain/}]", provider.ErrInvalid, "written without a slash at the end"},
	{"a folder by name only", "[{objectName: certs/}]", provider.ErrInvalid, "a folder is named by path"},
	{"a key of a folder", "[{path: certs/, key: x}]", provider.ErrInvalid, "exclude each other"},
	{"a key of a file without keys", "[{path: plain, key: x}]", provider.ErrInvalid, "does not end in .json, .yaml, .yml or .env"},
	{"a key of a list", "[{path: list.json, key: x}]", provider.ErrInvalid, "not a map"},
	{"a huge key", "[{objectName: x, path: db.json, key: " + strings.Repeat("x.", 600) + "}]", provider.ErrInvalid, "key is longer"},
	{"broken JSON", "[{path: broken.json, key: password}]", provider.ErrInvalid, "is not valid JSON"},
	{"JSON that is not UTF-8", "[{path: latin1.json, key: a}]", provider.ErrInvalid, "is not UTF-8"},
	{"broken YAML", "[{path: broken.yaml, key: a}]", provider.ErrInvalid, "not valid YAML"},
	{"a YAML key twice", "[{path: twice.yaml, key: a}]", provider.ErrInvalid, "sets a key twice"},
	{"broken dotenv", "[{path: broken.env, key: A}]", provider.ErrInvalid, "not in dotenv format"},
	{"a private-use character in dotenv", "[{path: private.env, key: A}]", provider.ErrInvalid, "U+F8FF"},
	{"content that is not base64", "[{path: db.json, key: password, encoding: base64}]", provider.ErrInvalid, "content is not base64"},
	{"content that is not hex", "[{path: plain, encoding: hex}]", provider.ErrInvalid, "content is not hex"},
	{"a named pipe", "[{path: fifo}]", provider.ErrInvalid, "is not a regular file"},
	{"a named pipe, although optional", "[{path: fifo, optional: true}]", provider.ErrInvalid, "is not a regular file"},
	{"a file that is plain and encrypted", "[{path: both/x}]", provider.ErrInvalid, "both plain and encrypted"},
	{"the same by its other name", "[{path: both/x.age}]", provider.ErrInvalid, "both plain and encrypted"},
	{"the same in a folder", "[{path: both/}]", provider.ErrInvalid, "both plain and encrypted"},
	{"a large file", "[{path: large}]", provider.ErrInvalid, "larger than 1000 bytes (--file-max-size)"},
	{"two objects for one file", "[{path: plain}, {objectName: plain, path: certs/a.pem}]", provider.ErrInvalid, `objects[0] and objects[1] both give the file "plain"`},
	{"a folder and an object for one file", "[{path: certs/}, {objectName: a.pem, path: plain}]", provider.ErrInvalid, `objects[0] and objects[1] both give the file "a.pem"`},
	{"a file where a folder must be", "[{objectName: a, path: plain}, {objectName: a/b/c, path: plain}]", provider.ErrInvalid, `objects[0] gives the file "a" and objects[1] the file "a/b/c" below it`},
	{"an unknown field", "[{objctName: a}]", provider.ErrInvalid, `did you mean "objectName"?`},
	{"optional with a sound but failing one", "[{path: no, optional: true}, {path: no2}]", provider.ErrNotFound, `"no2"`},
}

func TestFetchRefuses(t *testing.T) {
	s := newStore(t)
	password := s.canary()
	s.put(t, "db.json", `{"password": "`+password+`", "port": 1}`)
	s.put(t, "broken.json", `{"password": "`+password)
	s.put(t, "broken.yaml", "a: ["+password)
	s.put(t, "twice.yaml", "a: "+password+"\na: "+password)
	s.put(t, "broken.env", password+" "+password)
	s.put(t, "private.env", "A="+password+dollar)
	s.put(t, "list.json", `["`+password+`"]`)
	s.put(t, "latin1.json", "{\"a\": \"\xe4"+password+`"}`)
	s.put(t, "plain", password)
	s.put(t, "certs/a.pem", password)
	s.put(t, "both/x", password)
	s.put(t, "both/x.age", password)
	s.put(t, "large", strings.Repeat(password, 100))
	s.putRoot(t, "other/secret", password)
	s.putRoot(t, "rootfile", password)
	for name, target := range map[string]string{
		"out": "../other/secret", "up": "../rootfile", "absolute": filepath.Join(s.root, "shop/plain"), "loop": "loop", "dangling": "nothing",
		"outdir": "../other", "cycle/again": "../cycle", "bad/out": "../../other/secret", "dead/dangling": "nothing",
	} {
		link := filepath.Join(s.root, "shop", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(target, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(s.root, "shop/fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range refusals {
		t.Run(test.name, func(t *testing.T) {
			_, err := s.provider(t, Options{MaxFileSize: 1000}).Fetch(t.Context(), request(test.objects))
			s.clean(t, err, test.want)
			if !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %q does not say %q", err, test.text)
			}
		})
	}
}

func TestNamespacesAreApart(t *testing.T) {
	s := newStore(t)
	s.put(t, "secret", s.canary())
	s.putRoot(t, "top", s.canary())
	p := s.provider(t, Options{})
	for namespace, want := range map[string]error{
		"": provider.ErrInvalid, ".": provider.ErrInvalid, "..": provider.ErrInvalid, "shop/": provider.ErrInvalid, "shop/../shop": provider.ErrInvalid, ".git": provider.ErrInvalid,
		"/shop": provider.ErrInvalid, "shop\x00": provider.ErrInvalid, "a/b": provider.ErrInvalid, "blog": provider.ErrNotFound, "top": provider.ErrNotFound,
	} {
		t.Run(namespace, func(t *testing.T) {
			req := request("[{objectName: secret}]")
			req.Pod.Namespace = namespace
			_, err := p.Fetch(t.Context(), req)
			s.clean(t, err, want)
		})
	}
}

func TestSpecialFilesInAFolderAreLeftOut(t *testing.T) {
	s := newStore(t)
	s.put(t, "certs/a", "A")
	if err := syscall.Mkfifo(filepath.Join(s.root, "shop/certs/fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := map[string]got{"a": {0o640, "A"}}
	if diff := cmp.Diff(want, files(fetch(t, s.provider(t, Options{}), "[{path: certs/}]"))); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestAFolderIsBounded(t *testing.T) {
	s := newStore(t)
	s.put(t, "a", "")
	s.put(t, "certs/b", "")
	tree, err := openTree(s.root, "shop")
	if err != nil {
		t.Fatal(err)
	}
	defer tree.close()
	for left, want := range map[int]error{2: provider.ErrInvalid, 3: nil} {
		few := &surveyor{view: view{folders: map[string]stat{}}, tree: tree, left: left, indexes: map[string]int{}}
		if err := few.object(t.Context(), object{path: ".", folder: true}); !errors.Is(err, want) {
			t.Errorf("with %d entries left: %v, want %v", left, err, want)
		}
	}
}

func TestBecauseMapsEveryAnswerOfTheSystem(t *testing.T) {
	for errno, want := range map[error]error{
		syscall.ENOENT: provider.ErrNotFound, syscall.ENOTDIR: provider.ErrNotFound,
		syscall.EACCES: provider.ErrDenied, syscall.EPERM: provider.ErrDenied, errors.New("path escapes from parent"): provider.ErrDenied,
		syscall.ELOOP: provider.ErrInvalid, syscall.ENAMETOOLONG: provider.ErrInvalid,
		syscall.EIO: provider.ErrUnavailable, syscall.ESTALE: provider.ErrUnavailable, syscall.EMFILE: provider.ErrUnavailable,
	} {
		err := because(&fs.PathError{Op: "open", Path: "/full/path", Err: errno})
		if provider.Reason(err) != provider.Reason(want) || strings.Contains(err.Error(), "/full/path") {
			t.Errorf("because(%v) = %v, want it to wrap %v and leave out the path", errno, err, want)
		}
	}
}
