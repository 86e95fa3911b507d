package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Open returns the sink of a name: - is standard output, unix:///path a stream
// socket, and else it is a file.
func Open(name string) (Sink, error) {
	path, socket := strings.CutPrefix(name, "unix://")
	switch {
	case name == "-":
		return &stream{os.Stdout}, nil
	case socket:
		return &socketSink{path: path}, nil
	case !filepath.IsAbs(name):
		return nil, fmt.Errorf("audit log %q: want -, unix:///path or an absolute path of a file", name)
	default:
		return openFile(name, maxFile)
	}
}

// A stream forgets what was written.
type stream struct{ io.Writer }

func (*stream) Last() ([]byte, error)      { return nil, nil }
func (s *stream) Write(lines []byte) error { _, err := s.Writer.Write(lines); return err }
func (*stream) Close() error               { return nil }

// A socketSink writes to whoever listens, and connects again after an error.
type socketSink struct {
	path string
	conn net.Conn
}

func (*socketSink) Last() ([]byte, error) { return nil, nil }

// Write implements Sink. What is written in part is written again, on another
// connection: who listens must take only what ends with a line break.
func (s *socketSink) Write(lines []byte) error {
	if s.conn == nil {
		conn, err := net.DialTimeout("unix", s.path, patience/2)
		if err != nil {
			return err
		}
		s.conn = conn
	}
	err := s.conn.SetWriteDeadline(time.Now().Add(patience / 2))
	if err == nil {
		_, err = s.conn.Write(lines)
	}
	if err != nil {
		err = errors.Join(err, s.conn.Close())
		s.conn = nil
	}
	return err
}

func (s *socketSink) Close() error {
	if s.conn == nil {
		return nil
	}
	return s.conn.Close()
}

// maxFile is the size from which on a file is moved away.
const maxFile = 64 << 20

// A file is a log on disk. When it is large it is moved away, under the number
// of its last line; and when others have moved it, there is a new one. Lines go
// on, and the chain too.
type file struct {
	path string
	most int64
	f    *os.File
	info os.FileInfo
	size int64
}

func openFile(path string, most int64) (*file, error) {
	l := &file{path: path, most: most}
	if err := l.open(); err != nil {
		return nil, fmt.Errorf("open the audit log: %w", err)
	}
	return l, nil
}

// open opens or makes the file, which nobody but root reads. What follows the
// last whole line is cut off: nobody was told that it is written.
func (l *file) open() (err error) {
	if l.f, err = os.OpenFile(l.path, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
		return err
	}
	if l.info, err = l.f.Stat(); err != nil {
		return errors.Join(err, l.f.Close())
	}
	if !l.info.Mode().IsRegular() {
		return errors.Join(fmt.Errorf("%s is no regular file", l.path), l.f.Close())
	}
	tail, at, err := tailOf(l.f)
	if err != nil {
		return errors.Join(err, l.f.Close())
	}
	l.size = at + int64(bytes.LastIndexByte(tail, '\n')+1)
	return l.f.Truncate(l.size)
}

// maxLine is more than a line can have.
const maxLine = 4 << 20

// tailOf returns the end of a file, and where that begins.
func tailOf(f *os.File) (tail []byte, at int64, err error) {
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	at = max(0, info.Size()-maxLine)
	tail = make([]byte, info.Size()-at)
	if _, err := f.ReadAt(tail, at); err != nil && !errors.Is(err, io.EOF) {
		return nil, 0, err
	}
	return tail, at, nil
}

// Last implements Sink. A file without lines goes on where the one ends that
// was moved away last.
func (l *file) Last() ([]byte, error) {
	if l.size > 0 {
		return lastLine(l.f)
	}
	moved, err := filepath.Glob(l.path + "." + strings.Repeat("[0-9]", digits))
	if err != nil || len(moved) == 0 {
		return nil, err
	}
	f, err := os.Open(slices.Max(moved))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return lastLine(f)
}

func lastLine(f *os.File) ([]byte, error) {
	tail, _, err := tailOf(f)
	tail = bytes.TrimSuffix(tail, []byte("\n"))
	return tail[bytes.LastIndexByte(tail, '\n')+1:], err
}

// digits are those of the number in the name of a file that was moved away.
const digits = 16

// Write implements Sink.
func (l *file) Write(lines []byte) error {
	if err := l.follow(); err != nil {
		return err
	}
	if l.size > 0 && l.size+int64(len(lines)) > l.most {
		if err := l.moveAway(lines); err != nil {
			return err
		}
	}
	n, err := l.f.Write(lines)
	if err != nil {
		if n > 0 { // the disk is full
			err = errors.Join(err, l.f.Truncate(l.size))
		}
		return err
	}
	l.size += int64(n)
	return nil
}

// follow opens the file anew if it is another one, or gone.
func (l *file) follow() error {
	info, err := os.Stat(l.path)
	if err == nil && os.SameFile(info, l.info) {
		return nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return errors.Join(l.f.Close(), l.open())
}

// moveAway gives the file a name of its own: that of the line which comes next,
// so that names are in the order of their lines.
func (l *file) moveAway(lines []byte) error {
	first, _, _ := bytes.Cut(lines, []byte("\n"))
	number, err := sequenceOf(first)
	if err != nil {
		return err
	}
	if err := os.Rename(l.path, fmt.Sprintf("%s.%0*d", l.path, digits, number-1)); err != nil {
		return err
	}
	return errors.Join(l.f.Close(), l.open())
}

func (l *file) Close() error { return errors.Join(l.f.Sync(), l.f.Close()) }
