package atomicdir

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"strings"
	"unicode"
)

// ErrPath is wrapped by every error about the path or the mode of a file.
var ErrPath = errors.New("invalid file")

const (
	maxElement = 255
	maxPath    = 4096
	maxDepth   = 32 // elements of a path: each costs time, and a descriptor while it is written
)

func badFile(name, format string, args ...any) error {
	if len(name) > maxElement {
		name = name[:maxElement] + "..."
	}
	return fmt.Errorf("%w %q: %s", ErrPath, name, fmt.Sprintf(format, args...))
}

// ValidPath reports why no file can have this path: it must be relative,
// slash-separated and in its shortest form, none of its elements may start
// with "..", it must hold no control characters, and it must be neither
// over-long nor of more than 32 elements. The error wraps ErrPath.
func ValidPath(name string) error {
	switch {
	case name == "":
		return badFile(name, "the path is empty")
	case len(name) > maxPath:
		return badFile(name, "the path is longer than %d bytes", maxPath)
	case strings.HasPrefix(name, "/"):
		return badFile(name, "the path is absolute")
	case strings.Count(name, "/") >= maxDepth:
		return badFile(name, "the path has more than %d elements", maxDepth)
	case name == ".":
		return badFile(name, "the path is the directory itself")
	case strings.ContainsFunc(name, unicode.IsControl):
		return badFile(name, "the path holds a control character")
	}
	for element := range strings.SplitSeq(name, "/") {
		switch {
		case strings.HasPrefix(element, ".."):
			return badFile(name, "an element of the path starts with \"..\"")
		case len(element) > maxElement:
			return badFile(name, "an element of the path is longer than %d bytes", maxElement)
		}
	}
	if clean := path.Clean(name); clean != name {
		return badFile(name, "the shortest form of the path is %q", clean)
	}
	return nil
}

// Validate reports why no directory can hold these files, given by path and
// mode: each path must be valid and occur once, no file may be a directory of
// another, and modes must be permission bits. The error wraps ErrPath.
func Validate(files iter.Seq2[string, fs.FileMode]) error {
	isDir := map[string]bool{} // every path so far: false for a file
	for name, mode := range files {
		if err := ValidPath(name); err != nil {
			return err
		}
		if mode&^fs.ModePerm != 0 {
			return badFile(name, "the mode %#o is more than permission bits", uint32(mode))
		}
		if dir, taken := isDir[name]; taken && dir {
			return badFile(name, "it is also a directory of another file")
		} else if taken {
			return badFile(name, "it is there twice")
		}
		isDir[name] = false
		for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
			dir := name[:i]
			known, taken := isDir[dir]
			if taken && !known {
				return badFile(dir, "it is also a directory of %q", name)
			}
			if taken {
				break
			}
			isDir[dir] = true
		}
	}
	return nil
}
