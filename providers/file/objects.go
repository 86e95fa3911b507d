package file

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/params"
)

// ageSuffix marks encrypted files.
const ageSuffix = ".age"

const (
	maxObjects  = 1024 // of a class, each of which may be a file of many
	maxKey      = 1024 // bytes
	maxElements = 32   // of a path
)

// parameter is one item of the parameter objects.
type parameter struct {
	ObjectName     string          `param:"objectName"`
	Path           string          `param:"path"`
	Key            string          `param:"key"`
	Encoding       params.Encoding `param:"encoding"`
	FilePermission params.Mode     `param:"filePermission"`
	Optional       bool            `param:"optional"`
}

// An object is one thing that a volume asks for, with all defaults filled in.
type object struct {
	index    int    // in the parameter
	name     string // file in the volume; for a folder the folder, maybe ""
	path     string // in the namespace's folder, without .age and without slash at the end
	folder   bool
	key      string
	encoding params.Encoding
	mode     fs.FileMode
	optional bool
}

// String names the object in errors.
func (o object) String() string {
	if o.name == "" {
		return fmt.Sprintf("object %q", o.path+"/")
	}
	return fmt.Sprintf("object %q", o.name)
}

// in names the object, its file and the namespace in errors.
func (o object) in(t *tree) string {
	return fmt.Sprintf("%v: file %q in namespace %q", o, o.path, t.namespace)
}

// parseObjects returns the objects of a request.
func parseObjects(req *provider.Request) ([]object, error) {
	list, err := params.Objects[parameter](req.Parameters, "objects")
	if err != nil {
		return nil, err
	}
	if len(list) > maxObjects {
		return nil, fmt.Errorf("objects lists %d objects, and the limit is %d: %w", len(list), maxObjects, provider.ErrInvalid)
	}
	objects := make([]object, len(list))
	for i, item := range list {
		objects[i], err = item.object(req.Mode)
		if err != nil {
			return nil, fmt.Errorf("objects[%d]: %w: %w", i, err, provider.ErrInvalid)
		}
		objects[i].index = i
	}
	return objects, nil
}

// object checks the item and fills in its defaults.
func (p parameter) object(fallback fs.FileMode) (object, error) {
	if fallback == 0 {
		fallback = 0o644
	}
	o := object{name: p.ObjectName, key: p.Key, encoding: p.Encoding, mode: p.FilePermission.Or(fallback), optional: p.Optional}
	where := p.Path
	if where == "" {
		where = p.ObjectName
	}
	where, o.folder = strings.CutSuffix(where, "/")
	if o.path = where; !o.folder {
		o.path = logical(where)
	}
	switch {
	case o.folder && o.key != "":
		return o, fmt.Errorf("key and a path that ends in a slash exclude each other")
	case len(o.key) > maxKey:
		return o, fmt.Errorf("key is longer than %d bytes", maxKey)
	case o.path == "":
		return o, fmt.Errorf("path or objectName must be set")
	case o.folder && p.Path == "":
		return o, fmt.Errorf("objectName must not end in a slash; a folder is named by path")
	case o.folder && o.path == ".": // all of the namespace
	case checkPath(o.path) != nil:
		return o, fmt.Errorf("path %w", checkPath(o.path))
	}
	switch {
	case o.name == "" && o.key != "":
		o.name = o.key
	case o.name == "" && !o.folder:
		o.name = path.Base(o.path)
	case o.name == "":
		return o, nil
	}
	if err := checkName(o.name); err != nil {
		return o, fmt.Errorf("objectName %w", err)
	}
	return o, nil
}

// logical returns the name of a file without the mark of encryption.
func logical(name string) string { return strings.TrimSuffix(name, ageSuffix) }

// checkPath returns what is wrong with the path of a file in the store.
func checkPath(p string) error {
	switch {
	case strings.HasPrefix(p, "/"):
		return fmt.Errorf("must be relative")
	case strings.ContainsFunc(p, unicode.IsControl), !utf8.ValidString(p):
		return fmt.Errorf("must be text without control characters")
	case len(p) > 4096:
		return fmt.Errorf("is longer than 4096 bytes")
	case strings.Count(p, "/") >= maxElements:
		return fmt.Errorf("has more than %d elements", maxElements)
	case p == ".", !fs.ValidPath(p):
		return fmt.Errorf("must be clean, without empty elements, \".\" and \"..\"")
	}
	for element := range strings.SplitSeq(p, "/") {
		if len(element) > 255 {
			return fmt.Errorf("has an element that is longer than 255 bytes")
		}
	}
	return nil
}

// checkName returns what is wrong with the name of a file in the volume.
func checkName(name string) error {
	if err := checkPath(name); err != nil {
		return err
	}
	for element := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(element, "..") {
			return fmt.Errorf("must have no element that begins with two dots")
		}
	}
	return nil
}

// checkCollisions returns an error if two objects give the same file, or one
// gives a file where the other needs a folder.
func checkCollisions(sources []source) error {
	owners := make(map[string]object)
	for _, source := range sources {
		for _, o := range source.objects {
			if other, ok := owners[o.name]; ok {
				return fmt.Errorf("objects[%d] and objects[%d] both give the file %q: %w", other.index, o.index, o.name, provider.ErrInvalid)
			}
			owners[o.name] = o
		}
	}
	for name, o := range owners {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if other, ok := owners[dir]; ok {
				return fmt.Errorf("objects[%d] gives the file %q and objects[%d] the file %q below it: %w", other.index, dir, o.index, name, provider.ErrInvalid)
			}
		}
	}
	return nil
}
