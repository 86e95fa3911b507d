package volume

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"unicode/utf8"
)

var (
	_ Store = (*Memory)(nil)
	_ Store = (*Dir)(nil)
)

// A Memory is a Store that forgets when the process ends. The zero Memory is
// empty and ready to use.
type Memory struct {
	mu      sync.RWMutex
	records map[ID]Record
}

// Get returns the record of that ID, and whether there is one.
func (m *Memory) Get(id ID) (Record, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	record, ok := m.records[id]
	return record, ok
}

// Put keeps the record in place of any other of its ID, which must be
// non-empty UTF-8.
func (m *Memory) Put(record Record) error {
	err := record.ID.check()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records == nil {
		m.records = make(map[ID]Record)
	}
	m.records[record.ID] = record
	return nil
}

// Delete forgets the record of that ID, if there is one.
func (m *Memory) Delete(id ID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.records, id)
	return nil
}

// List returns all records, ordered by ID.
func (m *Memory) List() []Record {
	m.mu.RLock()
	defer m.mu.RUnlock()
	records := make([]Record, 0, len(m.records))
	for _, id := range slices.Sorted(maps.Keys(m.records)) {
		records = append(records, m.records[id])
	}
	return records
}

// Len implements Store.
func (m *Memory) Len() int {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return len(m.records)
}

// check returns an error if no Store can keep a record of that ID.
func (id ID) check() error {
	switch {
	case id == "":
		return errors.New("volume ID is empty")
	case !utf8.ValidString(string(id)):
		return fmt.Errorf("volume ID %q is not UTF-8", string(id))
	default:
		return nil
	}
}
