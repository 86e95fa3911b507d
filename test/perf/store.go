package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"strconv"
	"sync"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/test/perf/floor"
)

// A store answers at once: files of one size, with a generation that all of
// them share.
type store struct {
	mu         sync.Mutex
	generation int
	listeners  map[int]func(string)
}

func newStore() *store { return &store{listeners: map[int]func(string){}} }

// Fetch implements provider.Provider.
func (s *store) Fetch(_ context.Context, req *provider.Request) (*provider.Bundle, error) {
	files, err := strconv.Atoi(req.Parameters["files"])
	if err != nil {
		return nil, provider.ErrInvalid
	}
	s.mu.Lock()
	generation := s.generation
	s.mu.Unlock()
	b := &provider.Bundle{Versions: provider.Versions{}}
	for i := range files {
		name := fmt.Sprintf("secret-%02d", i)
		content := bytes.Repeat([]byte{byte('a' + generation%26)}, floor.FileSize)
		b.Files = append(b.Files, provider.File{Path: name, Mode: req.Mode, Data: secret.New(content)})
		b.Versions[name] = strconv.Itoa(generation)
	}
	return b, nil
}

// Changes implements provider.Notifier.
func (s *store) Changes(ctx context.Context, changed func(string)) error {
	s.mu.Lock()
	id := len(s.listeners)
	s.listeners[id] = changed
	s.mu.Unlock()
	<-ctx.Done()
	s.mu.Lock()
	delete(s.listeners, id)
	s.mu.Unlock()
	return ctx.Err()
}

// turn starts a new generation and tells of it.
func (s *store) turn() {
	s.mu.Lock()
	s.generation++
	listeners := maps.Clone(s.listeners)
	s.mu.Unlock()
	for _, changed := range listeners {
		changed("")
	}
}

// watched reports whether the driver listens for changes.
func (s *store) watched() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.listeners) > 0
}
