package aws

import (
	"sync"
	"time"
)

const (
	memoryLife = time.Hour // after which what was refused is tried again
	maxMemory  = 1 << 14
)

// A memory keeps which cheaper calls an identity may not make. What it has
// forgotten costs a call to learn again. Safe for concurrent use.
type memory struct {
	mu      sync.Mutex
	refused map[string]time.Time // until when
}

func (m *memory) has(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Now().Before(m.refused[key])
}

func (m *memory) note(key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.refused == nil || len(m.refused) >= maxMemory {
		m.refused = make(map[string]time.Time)
	}
	m.refused[key] = time.Now().Add(memoryLife)
}
