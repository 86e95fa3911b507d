package provider

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"github.com/keymount/keymount/pkg/atomicdir"
)

// maxVersions bounds what is remembered of a volume.
const maxVersions = 512 << 10

// Validate checks everything that the driver relies on in a fetched bundle:
// that it names at least one object version, that its warnings can be shown,
// and that its files can stand together in one directory. The error says what
// is wrong and never shows content; it wraps no sentinel, because such a
// bundle is a bug of the provider.
func (b *Bundle) Validate() error {
	switch {
	case b == nil:
		return errors.New("no bundle")
	case len(b.Versions) == 0:
		return errors.New("missing object versions")
	}
	size := 0
	for id, version := range b.Versions {
		if id == "" {
			return errors.New("an object version without an object ID")
		}
		size += len(id) + len(version)
	}
	if size > maxVersions {
		return fmt.Errorf("object IDs and versions of %d bytes, want at most %d", size, maxVersions)
	}
	if err := validateWarnings(b.Warnings); err != nil {
		return err
	}
	if b.Unchanged {
		return nil
	}
	if err := atomicdir.Validate(b.entries); err != nil {
		return fmt.Errorf("files: %w", err)
	}
	return nil
}

// entries yields the path and mode of each file.
func (b *Bundle) entries(yield func(string, fs.FileMode) bool) {
	for _, f := range b.Files {
		if !yield(f.Path, f.Mode) {
			return
		}
	}
}

// CheckFiles reports why no volume can hold these files, given by path and
// mode, before anything is fetched for them. The error wraps ErrInvalid.
func CheckFiles(files iter.Seq2[string, fs.FileMode]) error {
	if err := atomicdir.Validate(files); err != nil {
		return fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	return nil
}
