package kube

import (
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// wantedFor is how long it is remembered what is wanted by a class that no
// volume is refreshed from, and what is known for it.
const wantedFor = time.Hour

// A use is what decides what a provider wants of a cluster: an edited class is
// another use, and so is a service account of which other facts are known.
type use struct {
	provider, class string
	decisive        [sha256.Size]byte
}

// useOf returns the use that the request of the provider of a name is.
func useOf(name string, req *provider.Request) use {
	return use{name, req.Class, sha256.Sum256(fmt.Appendf(nil, "%q %q", req.Parameters, req.Facts))} // which prints maps in order
}

// wants remembers what uses have missed, so that they have it beforehand. It is
// safe for concurrent use.
type wants[T comparable] struct {
	most int // that is remembered of a use

	mu sync.Mutex
	of map[use]*wanted[T]
}

// wanted is what a use has missed. It is guarded by wants.mu.
type wanted[T comparable] struct {
	list []T
	last time.Time // of its fetches
}

// by returns what a use has missed before.
func (w *wants[T]) by(u use) []T {
	w.mu.Lock()
	defer w.mu.Unlock()
	known := w.of[u]
	if known == nil {
		return nil
	}
	known.last = time.Now()
	return slices.Clone(known.list)
}

// add notes that a use wants something.
func (w *wants[T]) add(u use, things ...T) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.of == nil {
		w.of = make(map[use]*wanted[T])
	}
	known := w.of[u]
	if known == nil {
		known = &wanted[T]{last: time.Now()}
		w.of[u] = known
	}
	for _, thing := range things {
		if !slices.Contains(known.list, thing) && len(known.list) < w.most {
			known.list = append(known.list, thing)
		}
	}
}

// forget notes that it is not known what a use wants.
func (w *wants[T]) forget(u use) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.of, u)
}

// sweep forgets what uses want that have not been for long.
func (w *wants[T]) sweep(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	maps.DeleteFunc(w.of, func(_ use, known *wanted[T]) bool { return now.Sub(known.last) > wantedFor })
}
