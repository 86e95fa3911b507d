package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/keymount/keymount/pkg/provider"
)

// maxEntries limits the files and folders that one volume looks at.
const maxEntries = 4096

// A source is one file of the store, or the list of files in one of its
// folders, with the objects that are taken from it.
type source struct {
	mark    mark
	objects []object // none for a folder
}

// A mark is all that can be known of a source without reading it.
type mark struct {
	id    string // object ID
	file  string // in the namespace's folder, with .age if that is so; "" if it does not exist
	names string // of the files in a folder
	stat  stat   // zero for a folder
}

// A view is how a tree looks to the objects of a volume.
type view struct {
	sources []source
	// folders has the attributes of each folder above a source. They change
	// when a link in it is swapped, even if it is swapped back.
	folders map[string]stat
}

// same reports whether nothing changed between two views.
func (v view) same(w view) bool {
	return maps.Equal(v.folders, w.folders) && slices.EqualFunc(v.sources, w.sources, func(a, b source) bool { return a.mark == b.mark })
}

// A surveyor collects a view.
type surveyor struct {
	view
	tree    *tree
	left    int            // entries
	indexes map[string]int // object ID -> position in sources
}

// survey returns the view of the objects, with the sources in a stable order.
// It reads attributes, never content.
func survey(ctx context.Context, tree *tree, objects []object) (view, error) {
	s := &surveyor{view: view{folders: make(map[string]stat)}, tree: tree, left: maxEntries, indexes: make(map[string]int)}
	for _, o := range objects {
		s.above(o.path)
		if err := s.object(ctx, o); err != nil {
			return view{}, fmt.Errorf("%s: %w", o.in(tree), err)
		}
	}
	return s.view, checkCollisions(s.sources)
}

// above adds the folders above a path.
func (s *surveyor) above(p string) {
	for p != "." {
		p = path.Dir(p)
		if _, ok := s.folders[p]; ok || s.tree.root == nil {
			return
		}
		s.folders[p] = stat{}
		if info, err := s.tree.root.Stat(p); err == nil {
			s.folders[p] = statOf(info)
		}
	}
}

func (s *surveyor) object(ctx context.Context, o object) error {
	if !o.folder {
		return s.file(ctx, o)
	}
	var names []string
	if _, _, err := s.tree.readDir(o.path, 1); !o.optional || !errors.Is(err, provider.ErrNotFound) {
		if names, err = s.folder(ctx, o, o.path, o.name, nil); err != nil {
			return err
		}
	}
	slices.Sort(names)
	s.add(mark{id: s.id(o.path) + "/", names: strings.Join(names, "\x00")})
	return nil
}

// id returns the object ID of a path.
func (s *surveyor) id(p string) string { return path.Join(s.tree.namespace, p) }

// add appends a source, or adds its objects to the one of the same ID.
func (s *surveyor) add(m mark, objects ...object) {
	if i, ok := s.indexes[m.id]; ok {
		s.sources[i].objects = append(s.sources[i].objects, objects...)
		return
	}
	s.indexes[m.id] = len(s.sources)
	s.sources = append(s.sources, source{mark: m, objects: objects})
}

// file adds the file of an object that is no folder.
func (s *surveyor) file(ctx context.Context, o object) error {
	if err := canceled(ctx); err != nil {
		return err
	}
	name, info, err := s.tree.find(o.path)
	switch {
	case o.optional && errors.Is(err, provider.ErrNotFound):
		s.add(mark{id: s.id(o.path)}, o)
		return nil
	case err != nil:
		return err
	}
	s.add(mark{id: s.id(o.path), file: name, stat: statOf(info)}, o)
	return nil
}

// folder adds every regular file below dir as an object like o, and returns
// their paths. Names that begin with two dots are the inner workings of
// kubelet's volumes.
func (s *surveyor) folder(ctx context.Context, o object, dir, name string, above []stat) ([]string, error) {
	if err := canceled(ctx); err != nil {
		return nil, err
	}
	entries, info, err := s.tree.readDir(dir, s.left+1)
	if err != nil {
		return nil, err
	}
	here := statOf(info)
	s.folders[dir] = here
	if slices.ContainsFunc(above, func(a stat) bool { return a.dev == here.dev && a.ino == here.ino }) {
		return nil, fmt.Errorf("has a symbolic link from a folder to one above it: %w", provider.ErrInvalid)
	}
	if s.left -= len(entries); s.left < 0 {
		return nil, fmt.Errorf("has more than %d files and folders: %w", maxEntries, provider.ErrInvalid)
	}
	var names []string
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), "..") {
			continue
		}
		more, err := s.entry(ctx, o, path.Join(dir, entry.Name()), path.Join(name, entry.Name()), append(above, here))
		if err != nil {
			return nil, err
		}
		names = append(names, more...)
	}
	return names, nil
}

// link reports whether there is a symbolic link.
func (s *surveyor) link(p string) bool {
	info, err := s.tree.root.Lstat(p)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// entry adds one entry of a folder and what is below it.
func (s *surveyor) entry(ctx context.Context, o object, p, name string, above []stat) ([]string, error) {
	info, err := s.tree.root.Stat(p)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !s.link(p):
		return nil, errMoved
	case err != nil:
		return nil, fmt.Errorf("%q: %w", p, because(err))
	case info.IsDir() && strings.Count(p, "/") >= maxElements: // each level costs more than the one above
		return nil, fmt.Errorf("%q: its path has more than %d elements: %w", p, maxElements, provider.ErrInvalid)
	case info.IsDir():
		return s.folder(ctx, o, p, name, above)
	case !info.Mode().IsRegular():
		return nil, nil
	}
	o.path, o.name, o.folder = logical(p), logical(name), false
	if err := checkName(o.name); err != nil {
		return nil, fmt.Errorf("%q: its name %w: %w", p, err, provider.ErrInvalid)
	}
	if err := s.file(ctx, o); errors.Is(err, provider.ErrNotFound) {
		return nil, errMoved
	} else if err != nil {
		return nil, err
	}
	return []string{o.path}, nil
}
