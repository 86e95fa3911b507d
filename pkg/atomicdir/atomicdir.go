// Package atomicdir replaces all files of a directory at once.
package atomicdir

import "io/fs"

// A File is one file of the directory.
type File struct {
	Path string      // relative and slash-separated
	Mode fs.FileMode // permission bits
	Data []byte
}
