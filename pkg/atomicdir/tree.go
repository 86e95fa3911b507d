package atomicdir

import (
	"slices"
	"strings"
)

// An entry is a file, or a directory with entries, which are sorted by name.
type entry struct {
	name    string
	file    *File
	entries []entry
}

// grow makes a tree of files sorted by path, leaving out the first skip bytes
// of their paths, which they have in common.
func grow(files []File, skip int) []entry {
	entries := make([]entry, 0, len(files))
	for len(files) > 0 {
		first := &files[0]
		name, _, deeper := strings.Cut(first.Path[skip:], "/")
		if !deeper {
			entries = append(entries, entry{name: name, file: first})
			files = files[1:]
			continue
		}
		dir := first.Path[:skip+len(name)+1]
		n := slices.IndexFunc(files, func(f File) bool { return !strings.HasPrefix(f.Path, dir) })
		if n < 0 {
			n = len(files)
		}
		entries = append(entries, entry{name: name, entries: grow(files[:n], len(dir))})
		files = files[n:]
	}
	slices.SortFunc(entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return entries
}

func wanted(entries []entry, name string) bool {
	_, found := slices.BinarySearchFunc(entries, name, func(e entry, name string) int { return strings.Compare(e.name, name) })
	return found
}
