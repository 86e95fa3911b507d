package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/keymount/keymount/pkg/provider"
)

// A tree is the open folder of one namespace. Every access goes through
// os.Root, so that no path and no link leads out of it.
type tree struct {
	namespace string
	store     *os.Root // root of the store
	root      *os.Root // folder of the namespace; nil if there is none
}

// openTree opens the folder of a namespace. One that does not exist is empty.
func openTree(root, namespace string) (*tree, error) {
	if !fs.ValidPath(namespace) || strings.Contains(namespace, "/") || strings.HasPrefix(namespace, ".") || strings.ContainsRune(namespace, 0) {
		return nil, fmt.Errorf("namespace %q is not a name: %w", namespace, provider.ErrInvalid)
	}
	store, err := os.OpenRoot(root)
	if err != nil {
		return nil, fmt.Errorf("the store %s cannot be opened: %w", root, provider.ErrUnavailable)
	}
	if info, err := store.Stat(namespace); errors.Is(err, fs.ErrNotExist) || err == nil && !info.IsDir() {
		return &tree{namespace: namespace, store: store}, nil
	}
	folder, err := store.OpenRoot(namespace)
	if err != nil {
		_ = store.Close()
		return nil, fmt.Errorf("folder of namespace %q: %w", namespace, because(err))
	}
	return &tree{namespace: namespace, store: store, root: folder}, nil
}

func (t *tree) close() {
	_ = t.store.Close()
	if t.root != nil {
		_ = t.root.Close()
	}
}

// A stat identifies the content of a file: two equal ones are the same bytes,
// once the clock of the file system has moved on.
type stat struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func statOf(info fs.FileInfo) stat {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stat{}
	}
	return stat{dev: s.Dev, ino: s.Ino, size: s.Size, mtime: s.Mtim, ctime: s.Ctim}
}

// find returns the name and the attributes of the file that an object means:
// path, or path with .age.
func (t *tree) find(path string) (string, fs.FileInfo, error) {
	if t.root == nil {
		return "", nil, provider.ErrNotFound
	}
	plain, plainErr := t.root.Stat(path)
	sealed, sealedErr := t.root.Stat(path + ageSuffix)
	switch {
	case plainErr != nil && !errors.Is(because(plainErr), provider.ErrNotFound):
		return "", nil, because(plainErr)
	case plainErr == nil && plain.IsDir():
		return "", nil, fmt.Errorf("is a folder, which is written with a slash at the end: %w", provider.ErrInvalid)
	case plainErr == nil && sealedErr == nil:
		return "", nil, fmt.Errorf("is there both plain and encrypted (%s); remove one: %w", ageSuffix, provider.ErrInvalid)
	case plainErr == nil:
		return path, plain, regular(plain)
	case sealedErr == nil:
		return path + ageSuffix, sealed, regular(sealed)
	case errors.Is(sealedErr, syscall.ENAMETOOLONG): // the path alone is not too long
		return "", nil, provider.ErrNotFound
	default:
		return "", nil, because(sealedErr)
	}
}

// regular returns an error for a file whose content is not bytes at rest.
func regular(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("is not a regular file: %w", provider.ErrInvalid)
	}
	return nil
}

// open opens the file that the mark describes. What was looked at by name may
// be another file by now: the open file decides, and errMoved says so.
func (t *tree) open(m mark) (io.ReadCloser, error) {
	// A named pipe would block the open, were it not for O_NONBLOCK.
	f, err := t.root.OpenFile(m.file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, because(err)
	}
	info, err := f.Stat()
	if err != nil || statOf(info) != m.stat {
		_ = f.Close()
		return nil, fmt.Errorf("%w: %w", errMoved, provider.ErrUnavailable)
	}
	return f, nil
}

// readDir returns at most limit entries of a folder, and its attributes.
func (t *tree) readDir(path string, limit int) ([]fs.DirEntry, fs.FileInfo, error) {
	if t.root == nil {
		return nil, nil, provider.ErrNotFound
	}
	info, err := t.root.Stat(path)
	switch {
	case err != nil:
		return nil, nil, because(err)
	case !info.IsDir():
		return nil, nil, fmt.Errorf("is a file, which is written without a slash at the end: %w", provider.ErrInvalid)
	}
	f, err := t.root.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, because(err)
	}
	defer f.Close()
	entries, err := f.ReadDir(limit)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, because(err)
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, info, nil
}

// because says why the operating system refused, with a sentinel and without
// the path, which the caller names.
func because(err error) error {
	var errno syscall.Errno
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
		return provider.ErrNotFound
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("the provider's process may not read it: %w", provider.ErrDenied)
	case !errors.As(err, &errno): // of os.Root
		return fmt.Errorf("leads out of the namespace's folder: %w", provider.ErrDenied)
	case errors.Is(err, syscall.ELOOP), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENXIO):
		return fmt.Errorf("%w: %w", errno, provider.ErrInvalid)
	default:
		return fmt.Errorf("%w: %w", errno, provider.ErrUnavailable)
	}
}
