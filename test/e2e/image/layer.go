package image

import (
	"archive/tar"
	"io"
	"os"
	"path"
	"strings"
)

// A layer writes files; no time and no owner of this machine gets in.
type layer struct {
	tar     *tar.Writer
	folders map[string]bool // that are there already
}

func (l *layer) add(f File) error {
	name := strings.TrimPrefix(path.Clean(f.Path), "/")
	if err := l.parents(name); err != nil {
		return err
	}
	switch {
	case f.Link != "":
		return l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: f.Link, Mode: 0o777})
	case f.Source == "":
		return l.folder(name, or(f.Mode, 0o1777))
	default:
		return l.file(name, f.Source, or(f.Mode, 0o755))
	}
}

// parents writes the folders above a name.
func (l *layer) parents(name string) error {
	parent := path.Dir(name)
	if l.folders[parent] {
		return nil
	}
	if err := l.parents(parent); err != nil {
		return err
	}
	return l.folder(parent, 0o755)
}

func (l *layer) folder(name string, mode int64) error {
	l.folders[name] = true
	return l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: mode})
}

func (l *layer) file(name, source string, mode int64) error {
	f, err := os.Open(source)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it was only read
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := l.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(l.tar, f)
	return err
}

func or(mode, preset int64) int64 {
	if mode == 0 {
		return preset
	}
	return mode
}
