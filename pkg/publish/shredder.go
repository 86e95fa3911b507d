package publish

import (
	"os"
	"slices"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/atomicdir"
	"github.com/keymount/keymount/pkg/volume"
)

const (
	// shredAfter is when nobody can be about to open a file any more that was
	// removed: for that, opening it would have to take as long.
	shredAfter = 2 * time.Second
	// maxRemoved bounds the files that wait for that, each a descriptor.
	maxRemoved = 512
)

// A shredder overwrites the files of old generations. The zero shredder is one;
// it is safe for concurrent use.
type shredder struct {
	mu      sync.Mutex
	removed []removed // in the order of their removal
	timer   *time.Timer
	closed  bool
}

type removed struct {
	file *os.File
	of   volume.ID
	at   time.Time
}

// take overwrites and closes the file of a volume in a while. With too many
// that wait, the kernel frees it as it is.
func (s *shredder) take(id volume.ID, file *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.removed) == maxRemoved {
		_ = file.Close()
		return
	}
	s.removed = append(s.removed, removed{file, id, time.Now()})
	if s.timer == nil {
		s.timer = time.AfterFunc(shredAfter, s.due)
	}
}

// due overwrites the files whose time has come.
func (s *shredder) due() {
	s.mu.Lock()
	ready := 0
	for ready < len(s.removed) && time.Since(s.removed[ready].at) >= shredAfter {
		ready++
	}
	now := s.removed[:ready:ready]
	s.removed, s.timer = slices.Clone(s.removed[ready:]), nil
	if len(s.removed) > 0 {
		s.timer = time.AfterFunc(time.Until(s.removed[0].at.Add(shredAfter)), s.due)
	}
	s.mu.Unlock()
	shred(now)
}

// flush overwrites the files of a volume that nobody reads any more.
func (s *shredder) flush(id volume.ID) { shred(s.yield(id)) }

// drop leaves the files of a volume to the kernel, which needs no time for it,
// and reports whether there were any.
func (s *shredder) drop(id volume.ID) bool {
	files := s.yield(id)
	for _, r := range files {
		_ = r.file.Close()
	}
	return len(files) > 0
}

// yield returns the files of a volume that wait, which do so no longer.
func (s *shredder) yield(id volume.ID) (files []removed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = slices.DeleteFunc(s.removed, func(r removed) bool {
		if r.of == id {
			files = append(files, r)
		}
		return r.of == id
	})
	return files
}

// close closes the files that wait, as they are: their pods may be reading.
func (s *shredder) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.timer != nil {
		s.timer.Stop()
	}
	for _, r := range s.removed {
		_ = r.file.Close()
	}
	s.removed = nil
}

func shred(files []removed) {
	for _, r := range files {
		_ = atomicdir.Overwrite(r.file) // who has it open keeps it, and the kernel frees it
		_ = r.file.Close()
	}
}
