package audit

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// A log with a line that is too long to be read could neither be verified nor
// gone on with.
func TestAHostileProviderCannotWriteALineThatNobodyReads(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	sink, err := openFile(path, maxFile)
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(t, sink, true)
	s := &store{}
	p := l.Middleware()("hostile", s)
	fetch := func() error {
		_, err := p.Fetch(t.Context(), &provider.Request{Pod: pod})
		return err
	}
	huge := &provider.Bundle{Versions: provider.Versions{"o": "1"}}
	for i := range 1000 { // of which JSON makes six times as many bytes
		huge.Files = append(huge.Files, provider.File{Path: fmt.Sprint(i, "/", strings.Repeat("<", 1000)), Data: secret.New(nil)})
	}
	for range 3 {
		s.bundle = huge
		if err := fetch(); !errors.Is(err, ErrNotWritten) || !errors.Is(err, provider.ErrUnavailable) || !strings.Contains(err.Error(), "a line at most 4194304: ask for less") {
			t.Errorf("Fetch = %.300v", err)
		}
		s.bundle = bundle()
		if err := fetch(); err != nil {
			t.Error(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	lost := int64(0)
	if s, err := Verify(all(t, path), func(e Event) error { lost += e.Lost; return nil }); err != nil || s.Lines != 4 || lost != 3 {
		t.Errorf("%+v, %d lost, %v; want 4 lines that tell of 3", s, lost, err)
	}
	if sink, err = openFile(path, maxFile); err != nil {
		t.Fatal(err)
	}
	newLog(t, sink, true) // which goes on
}

// What waits to be written is bounded, however much there is, and whether or
// not somebody waits for it.
func TestAFloodOfEventsDoesNotGrow(t *testing.T) {
	for _, required := range []bool{true, false} {
		t.Run(fmt.Sprint("required ", required), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { flood(t, required) })
		})
	}
}

func flood(t *testing.T, required bool) {
	sink := &paper{}
	l := newLog(t, sink, required)
	synctest.Wait()
	sink.stuck = make(chan struct{})
	const n = 3 * backlog
	var writers sync.WaitGroup
	for range n {
		writers.Go(func() { l.note(t.Context(), &Event{Event: Fetch, Decision: Allow}) })
	}
	synctest.Wait()
	if waiting := len(l.queue); waiting > backlog {
		t.Errorf("%d events wait, want at most %d", waiting, backlog)
	}
	close(sink.stuck)
	writers.Wait()
	synctest.Wait()
	if err := l.append(context.Background(), &Event{Event: Fetch, Decision: Allow}); err != nil {
		t.Error(err)
	}
	synctest.Wait()
	var told int64
	events := sink.events(t)
	for _, e := range events {
		told += e.Lost
	}
	if got := int64(len(events)) + told; got != n+2 {
		t.Errorf("%d events are written and %d told of as lost, want %d together", len(events), told, n+2)
	}
	if required && told > 0 {
		t.Errorf("%d events are lost, though all could wait", told)
	}
}

// Events may be large: a provider says which files they name.
func TestLargeEventsThatNobodyWaitsForAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &paper{}
		l := newLog(t, sink, false)
		synctest.Wait()
		sink.stuck = make(chan struct{})
		large := Event{Event: Fetch, Decision: Allow, Objects: []Object{{ID: strings.Repeat("x", 1<<20)}}}
		for range 100 {
			l.note(t.Context(), &large)
		}
		synctest.Wait()
		if bytes := l.waiting.Load(); bytes > weight || len(l.queue) > 20 {
			t.Errorf("%d events of %d bytes wait", len(l.queue), bytes)
		}
		close(sink.stuck)
		synctest.Wait()
		if bytes := l.waiting.Load(); bytes != 0 {
			t.Errorf("%d bytes wait of none", bytes)
		}
	})
}

// Ten thousand events, from as many callers as a busy node has, are all there.
func TestTenThousandEventsAreWrittenWithoutLoss(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	sink, err := openFile(path, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(t, sink, true)
	var callers sync.WaitGroup
	for i := range 100 {
		callers.Go(func() {
			for j := range 100 {
				if err := l.gate(t.Context(), &Event{Event: Fetch, Decision: Allow, Volume: fmt.Sprint(i, "-", j)}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	callers.Wait()
	seen := map[string]int{}
	s, err := Verify(all(t, path), func(e Event) error { seen[e.Volume]++; return nil })
	if err != nil || s.Lines != 10_001 || len(seen) != 10_001 {
		t.Errorf("%+v, %d different events, %v", s, len(seen), err)
	}
}
