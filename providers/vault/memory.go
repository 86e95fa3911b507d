package vault

import (
	"sync"
	"time"
)

const (
	memoryLife = 10 * time.Minute // after which what was learned is tried anew
	maxMemory  = 1 << 14
)

// A memory keeps what was learned of reads, for each identity. What it has
// forgotten costs a request to learn again. Safe for concurrent use.
type memory struct {
	mu    sync.Mutex
	known map[string]lesson
}

type lesson struct {
	kind  kind
	until time.Time
}

// get returns what was learned of a read, else fallback.
func (m *memory) get(identity string, r *read, fallback kind) kind {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l, ok := m.known[identity+r.digest]; ok && time.Now().Before(l.until) {
		return l.kind
	}
	return fallback
}

func (m *memory) set(identity string, r *read, k kind) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= maxMemory {
		m.known = make(map[string]lesson)
	}
	m.known[identity+r.digest] = lesson{k, time.Now().Add(memoryLife)}
}
