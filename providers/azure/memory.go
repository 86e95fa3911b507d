package azure

import (
	"sync"
	"time"
)

// maxEnds bounds what is remembered; it is learnt anew for one call each.
const maxEnds = 1 << 14

// A memory knows when pinned versions expire. Safe for concurrent use.
type memory struct {
	mu   sync.Mutex
	ends map[string]time.Time
}

// of returns when a version expires, zero if never, and whether that is known.
func (m *memory) of(key string) (time.Time, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	end, ok := m.ends[key]
	return end, ok
}

func (m *memory) note(key string, end time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ends == nil || len(m.ends) >= maxEnds {
		m.ends = make(map[string]time.Time)
	}
	m.ends[key] = end
}
