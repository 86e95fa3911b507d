package providertest

import (
	"bytes"
	"context"
	"maps"
	"sync"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// behaviourCases are about how a provider treats its callers and its process.
func behaviourCases() []testCase {
	return []testCase{
		{"HonoursCancellation", always, honoursCancellation},
		{"HonoursCancellationWhileWaiting", needs[Hanger]("Hanger"), honoursCancellationWhileWaiting},
		{"ConcurrentFetches", always, concurrentFetches},
		{"RequestIsNotModified", always, requestIsNotModified},
		{"ChangesAreTold", notifies, changesAreTold},
		// What these two are about is looked at after every case.
		{"NoGoroutineLeft", always, everything},
		{"NoSecretOutsideFiles", always, everything},
	}
}

func notifies(b Backend) string {
	if _, ok := provider.As[provider.Notifier](b.Provider()); ok {
		return ""
	}
	return "provider is no Notifier"
}

func honoursCancellation(s *suite) {
	values := s.put("a")
	ctx, cancel := context.WithCancel(s.Context())
	cancel()
	_, err := s.try(ctx, s.request("a"))
	s.because(err, provider.ErrUnavailable)
	s.holds(s.fetch(s.request("a")), values, nil)
}

func honoursCancellationWhileWaiting(s *suite) {
	s.put("a")
	req := s.request("a")
	waiting := s.backend.(Hanger).Hang(s)
	ctx, cancel := context.WithCancel(s.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := s.try(ctx, req)
		ended <- err
	}()
	impatience := time.NewTimer(s.patience)
	defer impatience.Stop()
	select {
	case <-waiting:
	case err := <-ended:
		s.Fatalf("Fetch returned %v without waiting for a backend that hangs", err)
	case <-impatience.C:
		s.Fatal("Fetch does not call the backend")
	}
	cancel()
	select {
	case err := <-ended:
		s.because(err, provider.ErrUnavailable)
	case <-impatience.C:
		s.Fatal("Fetch does not return after its context has ended")
	}
}

func concurrentFetches(s *suite) {
	names := []string{"a", "b", "c", "d"}
	values := s.put(names...)
	var all sync.WaitGroup
	for i := range 16 {
		mine := names[:1+i%len(names)]
		req, want := s.request(mine...), map[string][]byte{}
		for _, name := range mine {
			want[name] = values[name]
		}
		all.Go(func() {
			for range 4 {
				bundle, err := s.try(s.Context(), req)
				if err != nil {
					s.Errorf("Fetch: %v", err)
					return
				}
				s.holds(bundle, want, nil)
			}
		})
	}
	all.Wait()
}

func requestIsNotModified(s *suite) {
	s.put("a", "b")
	held := s.fetch(s.request("a", "b")).Versions
	for name, req := range map[string]*provider.Request{
		"that succeeds": s.request("a", "b"),
		"that holds":    s.request("a", "b"),
		"that fails":    s.request("a", "missing"),
	} {
		if name == "that holds" {
			req.Held.Versions = maps.Clone(held)
		}
		before := *req
		before.Parameters = maps.Clone(req.Parameters)
		before.Tokens = maps.Clone(req.Tokens)
		before.Credentials = maps.Clone(req.Credentials)
		before.Facts = maps.Clone(req.Facts)
		before.Held.Versions = maps.Clone(req.Held.Versions)
		_, _ = s.try(s.Context(), req)
		if diff := cmp.Diff(&before, req, cmp.Comparer(secret.Value.Equal)); diff != "" {
			s.Errorf("Fetch changed a request %s (-before +after):\n%s", name, diff)
		}
	}
}

// changesAreTold puts values until one is told of, because nothing says from
// when on the provider listens.
func changesAreTold(s *suite) {
	s.put("a")
	known := s.fetch(s.request("a")).Versions
	notifier, ok := provider.As[provider.Notifier](s.provider)
	if !ok {
		s.Fatal("the provider is no Notifier on this leg")
	}
	ctx, cancel := context.WithTimeout(s.Context(), s.patience)
	defer cancel()
	told, ended := make(chan string), make(chan error, 1)
	go func() {
		ended <- notifier.Changes(ctx, func(id string) {
			select {
			case told <- id:
			case <-ctx.Done():
			}
		})
	}()
	hear := func() (id string) {
		select {
		case id = <-told:
		case err := <-ended:
			s.Fatalf("Changes ended before it told of a change: %v", err)
		}
		return id
	}
	if id := hear(); id != "" {
		s.Errorf("Changes begins with %q, want an empty ID", id)
	}
	s.put("a")
	if id := hear(); known[id] == "" && id != "" {
		s.Errorf("Changes tells of %q, which is no object of %v", id, known)
	}
	cancel()
	for {
		select {
		case <-told:
		case err := <-ended:
			if err == nil {
				s.Error("Changes returned no reason")
			}
			return
		}
	}
}

// everything makes the provider succeed and fail in each way that the backend
// can express.
func everything(s *suite) {
	values := s.put("a", "b")
	current := s.fetch(s.request("a", "b"))
	s.holds(current, values, nil)
	held := s.request("a", "b")
	held.Held.Versions = current.Versions
	s.fetch(held)
	if binary := s.value("\xff", "\n"); limits(s.backend).storable(binary) == "" {
		s.backend.Put(s, "binary", bytes.Clone(binary))
		s.fetch(s.request("binary"))
	}
	_ = s.fails(s.request("a", "missing"), provider.ErrNotFound)
	_, _ = s.try(s.Context(), s.ask(Object{Name: "a", File: "../escape"}))
	_, _ = s.try(s.Context(), s.ask(Object{Name: "a", File: "same"}, Object{Name: "b", File: "same"}))
	honoursCancellation(s)
	if notifies(s.backend) == "" {
		changesAreTold(s)
	}
	if _, ok := s.backend.(Leaser); ok {
		releaseRevokes(s)
	}
	if _, ok := s.backend.(Breaker); ok {
		recoversAfterOutage(s)
	}
	if _, ok := s.backend.(Denier); ok {
		deniedIsDenied(s)
	}
}
