package providertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// A testCase is one promise of the contract.
type testCase struct {
	name  string
	unfit func(b Backend) string // why b cannot express the case; empty if it can
	run   func(s *suite)
}

// A harness is what a case is run on.
type harness struct {
	newBackend func(testing.TB) Backend
	connect    connector
	patience   time.Duration // with what should happen at once
}

// check runs the case on a new backend. When all of it has ended, it looks for
// goroutines that have not, and for canaries in what was said.
func (c testCase) check(t testing.TB, h harness) {
	t.Helper()
	said, logged, before := &transcript{}, captureLogs(), goleak.IgnoreCurrent()
	inner := newScope(t)
	defer func() {
		inner.close()
		if err := goleak.Find(before); err != nil {
			t.Errorf("goroutines that were not there before: %v", err)
		}
		said.say("a log at -v=10", logged())
		said.check(t)
	}()
	c.run(h.suite(inner, said))
}

// suite starts a backend and connects its provider.
func (h harness) suite(t testing.TB, said *transcript) *suite {
	b := h.newBackend(t)
	return &suite{TB: t, harness: h, backend: b, provider: h.connect(t, b.Provider()), said: said}
}

// always is the unfit of a case that every backend can express.
func always(Backend) string { return "" }

// needs returns an unfit for cases whose backend must implement T.
func needs[T any](name string) func(Backend) string {
	return func(b Backend) string {
		if _, ok := b.(T); ok {
			return ""
		}
		return "backend has no " + name
	}
}

// A suite is what one case works with: the test, one backend, and its
// provider as the leg connects it.
type suite struct {
	testing.TB
	harness
	backend  Backend
	provider provider.Provider
	said     *transcript
}

// value returns a new secret that is a canary, with text around it.
func (s *suite) value(prefix, suffix string) []byte {
	c := newCanary()
	s.said.forbid(c)
	return []byte(prefix + string(c) + suffix)
}

// put stores a new canary under each name, and returns the values by name.
func (s *suite) put(names ...string) map[string][]byte {
	s.Helper()
	values := map[string][]byte{}
	for _, name := range names {
		values[name] = s.value("", "")
		s.backend.Put(s, name, bytes.Clone(values[name]))
	}
	return values
}

// request returns a request for objects of these names, in files of the same
// names.
func (s *suite) request(names ...string) *provider.Request {
	s.Helper()
	objects := make([]Object, 0, len(names))
	for _, name := range names {
		objects = append(objects, Object{Name: name})
	}
	return s.ask(objects...)
}

// ask returns a request for objects.
func (s *suite) ask(objects ...Object) *provider.Request {
	s.Helper()
	return s.complete(s.backend.Request(s, objects...))
}

// complete fills in what every request has and a backend need not care about,
// and makes the request's own secrets canaries.
func (s *suite) complete(req *provider.Request) *provider.Request {
	s.Helper()
	if req.Dir == "" {
		req.Dir = s.TempDir()
	}
	if req.Mode == 0 {
		req.Mode = 0o644
	}
	for _, token := range req.Tokens {
		s.said.forbid(canary(token.Value.Reveal()))
	}
	for _, credential := range req.Credentials {
		s.said.forbid(canary(credential.Reveal()))
	}
	return req
}

// try fetches once, notes everything said that is not file data, and checks
// what is true of every answer. It may be called from any goroutine.
func (s *suite) try(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	s.Helper()
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	bundle, err := s.provider.Fetch(ctx, req)
	s.note(bundle, err)
	if err != nil {
		if bundle != nil && len(bundle.Files) > 0 {
			s.Errorf("Fetch returned %d files together with the error %v; a fetch is all or nothing", len(bundle.Files), err)
		}
		return nil, err
	}
	if err := bundle.Validate(); err != nil {
		s.Errorf("Fetch returned a bundle that no volume can hold: %v", err)
		return &provider.Bundle{}, nil
	}
	if bundle.Unchanged && !bundle.Versions.Equal(req.Held.Versions) {
		s.Errorf("Fetch says Unchanged with versions %v; the volume holds %v", bundle.Versions, req.Held.Versions)
	}
	return bundle, nil
}

func (s *suite) note(bundle *provider.Bundle, err error) {
	if err != nil {
		s.said.say("an error", fmt.Sprintf("%v\n%+v\n%#v", err, err, err))
	}
	if bundle == nil {
		return
	}
	s.said.say("the versions or the lease", fmt.Sprintf("%v %v", bundle.Versions, bundle.Lease))
	for _, file := range bundle.Files {
		s.said.say("a file path", file.Path)
	}
	for _, w := range bundle.Warnings {
		s.said.say("a warning", w.Message)
	}
	s.said.say("a printed bundle", fmt.Sprintf("%v %+v %#v", bundle, bundle, *bundle))
}

// fetch is try that must succeed.
func (s *suite) fetch(req *provider.Request) *provider.Bundle {
	s.Helper()
	bundle, err := s.try(s.Context(), req)
	if err != nil {
		s.Fatalf("Fetch: %v", err)
	}
	return bundle
}

// fails is try that must fail for the reason of want, and for no other.
func (s *suite) fails(req *provider.Request, want error) error {
	s.Helper()
	_, err := s.try(s.Context(), req)
	s.because(err, want)
	return err
}

// because checks that err wraps want, and no other sentinel.
func (s *suite) because(err, want error) {
	s.Helper()
	if err == nil {
		s.Fatalf("Fetch succeeded, want an error that wraps %q", want)
	}
	for _, sentinel := range []error{provider.ErrInvalid, provider.ErrNotFound, provider.ErrDenied, provider.ErrUnavailable} {
		if got := errors.Is(err, sentinel); got != errors.Is(sentinel, want) {
			s.Errorf("errors.Is(%q, %q) = %v, want the error to wrap %q only", err, sentinel, got, want)
		}
	}
}

// holds checks that the bundle consists of exactly these files; the modes are
// looked at where want has one.
func (s *suite) holds(bundle *provider.Bundle, want map[string][]byte, modes map[string]fs.FileMode) {
	s.Helper()
	got := map[string]provider.File{}
	for _, file := range bundle.Files {
		if _, twice := got[file.Path]; twice {
			s.Errorf("file %q is in the bundle twice", file.Path)
		}
		got[file.Path] = file
	}
	for path, data := range want {
		file, ok := got[path]
		switch mode, given := modes[path]; {
		case !ok:
			s.Errorf("file %q is not in the bundle", path)
		case !file.Data.Equal(secret.New(data)):
			s.Errorf("file %q has %d bytes that are not the %d bytes that were stored", path, file.Data.Len(), len(data))
		case given && file.Mode != mode:
			s.Errorf("file %q has mode %v, want %v", path, file.Mode, mode)
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			s.Errorf("file %q is in the bundle and was not asked for", path)
		}
	}
}
