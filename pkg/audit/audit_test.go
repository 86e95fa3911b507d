package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/pkg/volume"
)

const canary = "canary-7f3a"

var pod = provider.Pod{Namespace: "shop", Name: "web-0", UID: "u", ServiceAccount: "web"}

// A paper is a sink in memory, which can be full.
type paper struct {
	mu    sync.Mutex
	text  []byte
	full  bool
	stuck chan struct{} // nil unless writes hang
}

func (p *paper) Last() ([]byte, error) {
	lines := bytes.Split(bytes.TrimSuffix(p.text, []byte("\n")), []byte("\n"))
	return lines[len(lines)-1], nil
}

func (p *paper) Write(lines []byte) error {
	if p.stuck != nil {
		<-p.stuck
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.full {
		return errors.New("no space left")
	}
	p.text = append(p.text, lines...)
	return nil
}

func (*paper) Close() error { return nil }

func (p *paper) events(t *testing.T) (all []Event) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := Verify(bytes.NewReader(p.text), func(e Event) error { all = append(all, e); return nil }); err != nil {
		t.Errorf("Verify = %v", err)
	}
	return all
}

func key(b byte) []byte { return bytes.Repeat([]byte{b}, 32) }

func newLog(t *testing.T, sink Sink, required bool) *Log {
	t.Helper()
	l, err := New(sink, Options{Node: "n1", Key: key(1), Required: required})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// A store is a provider that leases.
type store struct {
	bundle   *provider.Bundle
	err      error
	released []string
}

func (s *store) Fetch(context.Context, *provider.Request) (*provider.Bundle, error) {
	return s.bundle, s.err
}

func (s *store) Release(_ context.Context, lease provider.Lease) error {
	s.released = append(s.released, lease.ID)
	return nil
}

func bundle() *provider.Bundle {
	return &provider.Bundle{
		Versions: provider.Versions{"b": "2", "a": "1"}, Lease: provider.Lease{ID: "lease-" + canary},
		Files: []provider.File{{Path: "x", Data: secret.New([]byte(canary))}, {Path: "y", Data: secret.New([]byte(canary))}},
	}
}

func TestAFetchIsWrittenDownBeforeItsCallerHasIt(t *testing.T) {
	sink := &paper{}
	l := newLog(t, sink, true)
	s := &store{bundle: bundle()}
	p := l.Middleware()("vault", Asked("vault", s))
	ctx := context.WithValue(t.Context(), volumeKey{}, "csi-1")
	if _, err := p.Fetch(ctx, &provider.Request{Class: "shop/db", Pod: pod}); err != nil {
		t.Fatal(err)
	}
	events := sink.events(t)
	e := events[len(events)-1]
	if e.Event != Fetch || e.Decision != Allow || *e.Pod != pod || e.Volume != "csi-1" || e.Class != "shop/db" || e.Provider != "vault" || e.Source != Store || e.Node != "n1" {
		t.Errorf("event %+v", e)
	}
	if !slices.Equal(e.Objects, []Object{{"a", "1"}, {"b", "2"}}) || len(e.Files) != 2 || e.Files[0].Fingerprint != e.Files[1].Fingerprint || e.Lease == "" {
		t.Errorf("event %+v", e)
	}
	if strings.Contains(string(sink.text), canary) {
		t.Error("the log has a secret")
	}
	other := &Event{}
	other.bundle(bundle(), key(2))
	if other.Files[0].Fingerprint == e.Files[0].Fingerprint {
		t.Error("fingerprints do not depend on the key")
	}
}

func TestWhatCannotBeWrittenDownIsNotGivenToAnybody(t *testing.T) {
	sink := &paper{}
	l := newLog(t, sink, true)
	s := &store{bundle: bundle()}
	p := l.Middleware()("vault", s)
	sink.full = true
	got, err := p.Fetch(t.Context(), &provider.Request{Pod: pod})
	if got != nil || !errors.Is(err, provider.ErrUnavailable) || !errors.Is(err, ErrNotWritten) {
		t.Errorf("Fetch = %v, %v", got, err)
	}
	if !slices.Equal(s.released, []string{"lease-" + canary}) {
		t.Errorf("leases given back: %q", s.released)
	}
	if _, err := p.Fetch(t.Context(), &provider.Request{Pod: pod, Held: provider.Held{Lease: s.bundle.Lease}}); !errors.Is(err, ErrNotWritten) || len(s.released) != 1 {
		t.Errorf("Fetch = %v; a lease that the volume has is given back", err)
	}
	sink.full = false
	if _, err := p.Fetch(t.Context(), &provider.Request{Pod: pod}); err != nil {
		t.Error(err)
	}
	events := sink.events(t)
	if last := events[len(events)-1]; last.Lost != 2 || len(events) != 2 {
		t.Errorf("%d events, the last says that %d are lost", len(events), last.Lost)
	}
	if writes, lost := l.Failures(); writes != 2 || lost != 0 {
		t.Errorf("%d writes failed, %d events are lost and not told of", writes, lost)
	}
}

func TestALogThatIsNotRequiredStopsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &paper{}
		l := newLog(t, sink, false)
		synctest.Wait()
		sink.stuck = make(chan struct{})
		p := l.Middleware()("vault", &store{bundle: bundle()})
		for range 2 * backlog {
			if _, err := p.Fetch(t.Context(), &provider.Request{Pod: pod}); err != nil {
				t.Fatal(err)
			}
		}
		close(sink.stuck)
		synctest.Wait()
		if _, err := p.Fetch(t.Context(), &provider.Request{Pod: pod}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		var told int64
		events := sink.events(t)
		for _, e := range events {
			told += e.Lost
		}
		if got := int64(len(events)) + told; got != 1+2*backlog+1 {
			t.Errorf("%d events are written or told of as lost, want %d", got, 1+2*backlog+1)
		}
	})
}

func TestASinkThatHangsIsWaitedForOnlyAMoment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sink := &paper{}
		l := newLog(t, sink, true)
		sink.stuck = make(chan struct{})
		defer close(sink.stuck)
		if _, err := l.Middleware()("vault", &store{bundle: &provider.Bundle{}}).Fetch(t.Context(), &provider.Request{Pod: pod}); !errors.Is(err, ErrNotWritten) {
			t.Errorf("Fetch = %v", err)
		}
	})
}

func TestRefusalsSayWhy(t *testing.T) {
	sink := &paper{}
	l := newLog(t, sink, true)
	for _, c := range []struct {
		err      error
		decision Decision
		reason   string
	}{
		{fmt.Errorf("no\nrights: %w", provider.ErrDenied), Refuse, "Denied"},
		{provider.ErrNotFound, Refuse, "NotFound"},
		{provider.ErrInvalid, Refuse, "Invalid"},
		{provider.ErrUnavailable, Fail, "Unavailable"},
		{errors.New(strings.Repeat("x\xff", 2000)), Fail, "Internal"},
	} {
		_, _ = l.Middleware()("vault", &store{err: c.err}).Fetch(t.Context(), &provider.Request{Pod: pod})
		events := sink.events(t)
		if e := events[len(events)-1]; e.Decision != c.decision || e.Reason != c.reason || e.Source != Shared || e.Message == "" || len(e.Message) > maxMessage || strings.Contains(e.Message, "\n") {
			t.Errorf("event %+v", e)
		}
	}
}

// A script is a publisher that answers what it is told to.
type script struct {
	res publish.Result
	err error
}

func (s *script) Publish(context.Context, volume.Volume) (publish.Result, error) { return s.res, s.err }
func (s *script) Refresh(context.Context, volume.ID) (publish.Result, error)     { return s.res, s.err }
func (s *script) Unpublish(context.Context, volume.ID, string) error             { return s.err }

func TestWhatBecomesOfAVolume(t *testing.T) {
	sink, volumes := &paper{}, &volume.Memory{}
	l := newLog(t, sink, true)
	rec := volume.Record{ID: "v", Class: class.Name{Namespace: "shop", Name: "db"}, Pod: pod, Provider: "vault", Revision: "7"}
	if err := volumes.Put(rec); err != nil {
		t.Fatal(err)
	}
	s := &script{}
	p := l.Observe(s, volumes)
	v := volume.Volume{ID: "v", Class: rec.Class, Pod: pod}
	stale := &publish.StaleError{ID: "v", Err: provider.ErrUnavailable}
	for _, step := range []struct {
		do      func()
		res     publish.Result
		err     error
		want    Kind // empty: nothing
		decided Decision
	}{
		{func() { _, _ = p.Publish(t.Context(), v) }, publish.Result{Outcome: publish.Created, Record: rec}, nil, Publish, Allow},
		{func() { _, _ = p.Publish(t.Context(), v) }, publish.Result{Outcome: publish.NotDue, Record: rec}, nil, "", ""},
		{func() { _, _ = p.Publish(t.Context(), v) }, publish.Result{}, provider.ErrDenied, Publish, Refuse},
		{func() { _, _ = p.Refresh(t.Context(), "v") }, publish.Result{Outcome: publish.Unchanged, Record: rec}, nil, "", ""},
		{func() { _, _ = p.Refresh(t.Context(), "v") }, publish.Result{Outcome: publish.Rotated, Record: rec}, nil, Rotate, Allow},
		{func() { _, _ = p.Refresh(t.Context(), "v") }, publish.Result{Record: rec}, stale, Refresh, Fail},
		{func() { _, _ = p.Publish(t.Context(), v) }, publish.Result{Record: rec}, stale, Refresh, Fail},
		{func() { _, _ = p.Refresh(t.Context(), "gone") }, publish.Result{}, volume.ErrNotFound, "", ""},
		{func() { _ = p.Unpublish(t.Context(), "v", "/t") }, publish.Result{}, nil, Unpublish, Allow},
		{func() { _ = p.Unpublish(t.Context(), "unknown", "/t") }, publish.Result{}, nil, "", ""},
	} {
		before := len(sink.events(t))
		s.res, s.err = step.res, step.err
		step.do()
		events := sink.events(t)
		switch e := events[len(events)-1]; {
		case step.want == "" && len(events) == before:
		case step.want == "" || len(events) != before+1:
			t.Errorf("%d events, the last %+v", len(events)-before, e)
		case e.Event != step.want || e.Decision != step.decided || e.Volume != "v" || *e.Pod != pod || e.Class != "shop/db":
			t.Errorf("event %+v, want %s, %s", e, step.want, step.decided)
		}
	}
}

func TestALeaseThatIsGivenBackIsWrittenDown(t *testing.T) {
	sink := &paper{}
	l := newLog(t, sink, true)
	s := &store{}
	giver, ok := provider.As[provider.Releaser](l.Middleware()("vault", Asked("vault", s)))
	if !ok {
		t.Fatal("no releaser")
	}
	if err := giver.Release(t.Context(), provider.Lease{ID: canary}); err != nil || len(s.released) != 1 {
		t.Error(err, s.released)
	}
	events := sink.events(t)
	if e := events[len(events)-1]; e.Event != Release || e.Lease == "" || e.Provider != "vault" || strings.Contains(string(sink.text), canary) {
		t.Errorf("event %+v", e)
	}
	if _, ok := provider.As[provider.Releaser](l.Middleware()("file", nothing{})); ok {
		t.Error("a provider that cannot release seems to")
	}
}

type nothing struct{ provider.Provider }

func TestWhatIsNotAsItWasWrittenIsFound(t *testing.T) {
	sink := &paper{}
	l := newLog(t, sink, true)
	p := l.Middleware()("vault", &store{bundle: bundle()})
	for range 5 {
		_, _ = p.Fetch(t.Context(), &provider.Request{Pod: pod})
	}
	lines := bytes.SplitAfter(sink.text, []byte("\n"))[:6]
	join := func(lines ...[]byte) []byte { return bytes.Join(lines, nil) }
	for name, c := range map[string]struct {
		log  []byte
		line int64
	}{
		"an altered line":           {join(lines[0], lines[1], bytes.Replace(lines[2], []byte("allow"), []byte("refuse"), 1), lines[3]), 4},
		"a missing line":            {join(lines[0], lines[1], lines[3]), 3},
		"lines in another order":    {join(lines[0], lines[2], lines[1]), 2},
		"a line twice":              {join(lines[0], lines[1], lines[1]), 3},
		"an end that is cut off":    {join(lines[0], lines[1][:30]), 2},
		"a line that is none":       {join(lines[0], []byte("x\n")), 2},
		"a field that is none":      {join(lines[0], bytes.Replace(lines[1], []byte(`"node"`), []byte(`"nodes"`), 1)), 2},
		"white space":               {join(lines[0], bytes.Replace(lines[1], []byte(`,"node"`), []byte(`, "node"`), 1)), 2},
		"a line that is too long":   {bytes.Repeat([]byte("x"), maxLine+10), 1},
		"a first that has a former": {bytes.Replace(lines[0], []byte(zeros), []byte(strings.Repeat("1", 64)), 1), 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Verify(bytes.NewReader(c.log), nil)
			var fault *Fault
			if !errors.As(err, &fault) || fault.Line != c.line {
				t.Errorf("Verify = %v, want line %d", err, c.line)
			}
		})
	}
	if s, err := Verify(bytes.NewReader(join(lines[2:]...)), nil); err != nil || s != (Summary{4, 3, 6}) {
		t.Errorf("the end of a log: %+v, %v", s, err)
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte(`{"seq":1,"time":"2026-01-01T00:00:00Z","node":"n","event":"start","decision":"allow","prev":"` + zeros + `"}` + "\n"))
	f.Add([]byte("x"))
	f.Fuzz(func(t *testing.T, log []byte) {
		s, err := Verify(bytes.NewReader(log), nil)
		if n := int64(bytes.Count(log, []byte("\n"))); err == nil && s.Lines != n {
			t.Errorf("%d lines of %d are good", s.Lines, n)
		}
	})
}

// all returns the whole log: what was moved away, and what is written to.
func all(t *testing.T, path string) io.Reader {
	t.Helper()
	moved, err := filepath.Glob(path + ".*")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(moved)
	var text bytes.Buffer
	for _, name := range append(moved, path) {
		part, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, os.ErrNotExist) { // it may have been moved away just now
			t.Fatal(err)
		}
		text.Write(part)
	}
	return &text
}

func TestALogOnDiskGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	write := func(most int64, n int) {
		sink, err := openFile(path, most)
		if err != nil {
			t.Fatal(err)
		}
		l := newLog(t, sink, true)
		for range n {
			if err := l.gate(t.Context(), &Event{Event: Fetch, Decision: Allow}); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	write(maxFile, 3)
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString(`{"seq":5,"ti`) // what a driver that is killed leaves
	_ = f.Close()
	write(maxFile, 2)
	if err := os.Rename(path, path+".0000000000000000"); err != nil { // as others do
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Verify(all(t, path), nil); err != nil || s != (Summary{7, 1, 7}) {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestALargeLogIsMovedAwayWithoutLoss(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	sink, err := openFile(path, 2000)
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(t, sink, true)
	var writers sync.WaitGroup
	for range 4 {
		writers.Go(func() {
			for range 100 {
				if err := l.gate(t.Context(), &Event{Event: Fetch, Decision: Allow}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	if err := os.Remove(path); err != nil { // what is lost by others is lost, but only that
		t.Fatal(err)
	}
	if err := l.gate(t.Context(), &Event{Event: Fetch, Decision: Allow}); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil || bytes.Count(text, []byte("\n")) != 1 {
		t.Errorf("%q, %v", text, err)
	}
	moved, _ := filepath.Glob(path + ".*")
	if len(moved) < 20 {
		t.Errorf("%d files were moved away", len(moved))
	}
	if info, err := os.Stat(moved[0]); err != nil || info.Mode() != 0o600 || info.Size() > 3000 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if s, err := Verify(all(t, path), nil); err != nil || s.First != 1 || s.Lines < 380 {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestADiskThatIsFullIsAnErrorAndLeavesWholeLines(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	sink, err := openFile(path, maxFile)
	if err != nil {
		t.Fatal(err)
	}
	l := newLog(t, sink, true)
	disk := sink.f
	sink.f = full
	if err := l.gate(t.Context(), &Event{Event: Fetch}); !errors.Is(err, provider.ErrUnavailable) || !strings.Contains(fmt.Sprint(err), "no space left") {
		t.Errorf("gate = %v", err)
	}
	sink.f = disk
	if err := l.gate(t.Context(), &Event{Event: Fetch, Decision: Allow}); err != nil {
		t.Error(err)
	}
	if s, err := Verify(all(t, path), nil); err != nil || s.Lines != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	_ = full.Close()
}

func TestNamesOfSinks(t *testing.T) {
	if _, err := Open("audit.log"); err == nil {
		t.Error("a relative path is opened")
	}
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("a folder is opened")
	}
	for _, name := range []string{"-", "unix:///run/none.sock"} {
		s, err := Open(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if last, err := s.Last(); last != nil || err != nil {
			t.Errorf("%s: %q, %v", name, last, err)
		}
	}
}
