package atomicdir

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	dirMode  = 0o755
	allModes = 0o7777
)

// A survey tells what a directory holds, by name. Its lists are sorted.
type survey struct {
	generation string   // what "..data" leads to; "" if that cannot be a generation
	links      []string // top-level links as this package makes them
	leftovers  []string // of a killed Write
	foreign    []string // everything else
}

func (w *writer) survey() (*survey, error) {
	names, err := w.list(w.dir, ".")
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	had := &survey{}
	if slices.Contains(names, dataName) {
		if had.generation, err = w.current(); err != nil {
			return nil, err
		}
	}
	for _, name := range names {
		switch {
		case name == had.generation, name == dataName && had.generation != "":
		case name == tempName, isGeneration(name):
			had.leftovers = append(had.leftovers, name)
		case !strings.HasPrefix(name, "..") && w.isLink(name):
			had.links = append(had.links, name)
		default:
			had.foreign = append(had.foreign, name)
		}
	}
	return had, nil
}

// current returns the generation that "..data" leads to.
func (w *writer) current() (string, error) {
	target, err := w.readlinkat(w.dir, dataName)
	switch {
	case errors.Is(err, unix.EINVAL): // not a link
		return "", nil
	case err != nil:
		return "", err
	case !strings.HasPrefix(target, "..") || target == ".." || target == dataName || target == tempName, strings.Contains(target, "/"):
		return "", nil
	default:
		return target, nil
	}
}

func (w *writer) isLink(name string) bool {
	target, err := w.readlinkat(w.dir, name)
	return err == nil && target == link(name)
}

// isGeneration reports whether a name is one that mkgen or kubelet makes.
func isGeneration(name string) bool {
	if len(name) <= len(generationTime) {
		return false
	}
	_, err := time.Parse(generationTime, name[:len(generationTime)])
	return err == nil
}

func (s *survey) has(name string) bool {
	_, link := slices.BinarySearch(s.links, name)
	_, foreign := slices.BinarySearch(s.foreign, name)
	return link || foreign
}

// shows reports whether the links are those of want, and there is nothing else.
func (s *survey) shows(want []entry) bool {
	return len(s.foreign) == 0 &&
		slices.EqualFunc(s.links, want, func(name string, e entry) bool { return name == e.name })
}

// holds reports whether a generation is exactly want. What cannot be read is
// not.
func (w *writer) holds(generation string, want []entry) bool {
	if generation == "" {
		return false
	}
	var longest int
	measure(want, &longest)
	buf := make([]byte, min(longest, 64<<10)+1)
	defer clear(buf)
	return w.equal(w.dir, generation, want, buf)
}

func measure(entries []entry, longest *int) {
	for _, e := range entries {
		if e.file != nil {
			*longest = max(*longest, len(e.file.Data))
		}
		measure(e.entries, longest)
	}
}

// equal reports whether the directory name holds exactly want.
func (w *writer) equal(parent int, name string, want []entry, buf []byte) bool {
	dir, err := w.opendir(parent, name)
	if err != nil {
		return false
	}
	defer w.close(dir)
	var st unix.Stat_t
	if w.fstat(dir, name, &st) != nil || st.Mode&allModes != dirMode || int(st.Gid) != w.gid {
		return false
	}
	names, err := w.list(dir, name)
	if err != nil || len(names) != len(want) {
		return false
	}
	for _, e := range want {
		switch {
		case e.file != nil && !w.sameFile(dir, e.name, e.file, buf):
			return false
		case e.file == nil && !w.equal(dir, e.name, e.entries, buf):
			return false
		}
	}
	return true
}

func (w *writer) sameFile(dir int, name string, f *File, buf []byte) bool {
	fd, err := w.openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK, 0) // a fifo must not block
	if err != nil {
		return false
	}
	defer w.close(fd)
	var st unix.Stat_t
	if w.fstat(fd, name, &st) != nil || st.Mode != unix.S_IFREG|uint32(f.Mode) || int(st.Gid) != w.gid || st.Size != int64(len(f.Data)) {
		return false
	}
	for rest := f.Data; len(rest) > 0; {
		n, err := w.read(fd, name, buf)
		if err != nil || n == 0 || n > len(rest) || !bytes.Equal(buf[:n], rest[:n]) {
			return false
		}
		rest = rest[n:]
	}
	return true
}
