package providertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// A recorder is a testing.TB whose failures are the subject, not the outcome,
// of a test.
type recorder struct {
	*scope
	mu       sync.Mutex
	failures []string
}

func (r *recorder) fail(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failures = append(r.failures, text)
}

func (r *recorder) Error(args ...any)                 { r.fail(fmt.Sprint(args...)) }
func (r *recorder) Errorf(format string, args ...any) { r.fail(fmt.Sprintf(format, args...)) }
func (r *recorder) Fatal(args ...any)                 { r.fail(fmt.Sprint(args...)); runtime.Goexit() }
func (r *recorder) Fatalf(format string, args ...any) {
	r.fail(fmt.Sprintf(format, args...))
	runtime.Goexit()
}
func (r *recorder) Logf(string, ...any) {}

// verdict runs one case and returns its failures.
func verdict(t *testing.T, c testCase, h harness) []string {
	r := &recorder{scope: newScope(t)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer r.close()
		c.check(r, h)
	}()
	<-ended
	return r.failures
}

// A mutant is the Fake with one thing wrong.
type mutant struct {
	fakeBackend
	fetch   func(ctx context.Context, req *provider.Request) (*provider.Bundle, error)
	release func(ctx context.Context, lease provider.Lease) error
	changes func(ctx context.Context, changed func(string)) error
}

func (m *mutant) Provider() provider.Provider { return m }

func (m *mutant) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	if m.fetch == nil {
		return m.fake.Fetch(ctx, req)
	}
	return m.fetch(ctx, req)
}

func (m *mutant) Release(ctx context.Context, lease provider.Lease) error {
	if m.release == nil {
		return m.fake.Release(ctx, lease)
	}
	return m.release(ctx, lease)
}

func (m *mutant) Changes(ctx context.Context, changed func(string)) error {
	if m.changes == nil {
		return m.fake.Changes(ctx, changed)
	}
	return m.changes(ctx, changed)
}

// onSuccess makes a mutation that changes each bundle.
func onSuccess(change func(f *Fake, req *provider.Request, b *provider.Bundle)) func(*mutant) {
	return func(m *mutant) {
		m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			b, err := m.fake.Fetch(ctx, req)
			if err == nil {
				change(m.fake, req, b)
			}
			return b, err
		}
	}
}

// onFailure makes a mutation that changes what a failure returns.
func onFailure(change func(m *mutant, req *provider.Request, err error) (*provider.Bundle, error)) func(*mutant) {
	return func(m *mutant) {
		m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			b, err := m.fake.Fetch(ctx, req)
			if err != nil {
				return change(m, req, err)
			}
			return b, nil
		}
	}
}

// eachFile makes a mutation of the bytes of files.
func eachFile(change func([]byte) []byte) func(*mutant) {
	return onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) {
		for i, file := range b.Files {
			b.Files[i].Data = secret.New(change(bytes.Clone(file.Data.Reveal())))
		}
	})
}

// version makes a mutation of versions that ignores what is held.
func version(of func(f *Fake, name string, value []byte) string) func(*mutant) {
	return func(m *mutant) {
		m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			fresh := *req
			fresh.Held.Versions = nil
			b, err := m.fake.Fetch(ctx, &fresh)
			if err == nil {
				for _, file := range b.Files {
					b.Versions[file.Path] = of(m.fake, file.Path, file.Data.Reveal())
				}
			}
			return b, err
		}
	}
}

// leak says the values of the request's objects.
func leak(m *mutant, encode func([]byte) string) string {
	m.fake.mu.Lock()
	defer m.fake.mu.Unlock()
	var said []string
	for _, value := range m.fake.objects {
		said = append(said, encode(value))
	}
	return strings.Join(said, " ")
}

func leaky(encode func([]byte) string) func(*mutant) {
	return onFailure(func(m *mutant, _ *provider.Request, err error) (*provider.Bundle, error) {
		return nil, fmt.Errorf("%w (the values are %s)", err, leak(m, encode))
	})
}

func instead(err error) func(*mutant) {
	return onFailure(func(*mutant, *provider.Request, error) (*provider.Bundle, error) { return nil, err })
}

var errOther = errors.New("failed")

// mutations lists, for each case, mistakes that it must catch.
var mutations = []struct {
	caught  string // by this case
	mistake string
	mutate  func(*mutant)
}{
	{"ReturnsTheExactBytes", "drops the trailing newline", eachFile(func(b []byte) []byte { return bytes.TrimSuffix(b, []byte("\n")) })},
	{"ReturnsTheExactBytes", "trims space", eachFile(bytes.TrimSpace)},
	{"ReturnsTheExactBytes", "replaces invalid UTF-8", eachFile(func(b []byte) []byte { return bytes.ToValidUTF8(b, []byte("?")) })},
	{"ReturnsTheExactBytes", "ends at NUL", eachFile(func(b []byte) []byte { return bytes.SplitN(b, []byte{0}, 2)[0] })},
	{"ReturnsTheExactBytes", "cuts large values", eachFile(func(b []byte) []byte { return b[:min(len(b), 1<<16)] })},
	{"ReturnsTheExactBytes", "leaves out empty files", onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) {
		b.Files = slices.DeleteFunc(b.Files, func(f provider.File) bool { return f.Data.Len() == 0 })
	})},
	{"ManyObjectsOneBundle", "leaves out a file", onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) { b.Files = b.Files[1:] })},
	{"ManyObjectsOneBundle", "adds a file", onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) {
		b.Files = append(b.Files, provider.File{Path: "extra"})
	})},
	{"ManyObjectsOneBundle", "mixes up files", onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) {
		b.Files[0].Path, b.Files[1].Path = b.Files[1].Path, b.Files[0].Path
	})},
	{"OptionalMayBeMissing", "requires what is optional", func(m *mutant) {
		m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			strict := *req
			strict.Parameters = map[string]string{ParameterObjects: strings.ReplaceAll(req.Parameters[ParameterObjects], "optional: true", "optional: false")}
			return m.fake.Fetch(ctx, &strict)
		}
	}},
	{"PathsStayInside", "calls a bad path unavailable", instead(provider.ErrUnavailable)},
	{"PathsStayInside", "accepts any path", onFailure(func(_ *mutant, _ *provider.Request, _ error) (*provider.Bundle, error) {
		return &provider.Bundle{Versions: provider.Versions{"a": "1"}, Files: []provider.File{{Path: "../escape"}}}, nil
	})},
	{"DuplicatePathsAreInvalid", "takes one of two", onFailure(func(*mutant, *provider.Request, error) (*provider.Bundle, error) {
		return &provider.Bundle{Versions: provider.Versions{"a": "1"}, Files: []provider.File{{Path: "same"}}}, nil
	})},
	{"ModeIsTheRequests", "always says 0644", onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) { b.Files[0].Mode = 0o644 })},
	{"ModeDefaultsAndOverrides", "ignores the object's mode", onSuccess(func(_ *Fake, req *provider.Request, b *provider.Bundle) {
		for i := range b.Files {
			b.Files[i].Mode = req.Mode
		}
	})},
	{"AllOrNothing", "returns what it found with the error", onFailure(func(_ *mutant, _ *provider.Request, err error) (*provider.Bundle, error) {
		return &provider.Bundle{Files: []provider.File{{Path: "first"}}}, err
	})},
	{"AllOrNothing", "returns what it found and no error", onFailure(func(*mutant, *provider.Request, error) (*provider.Bundle, error) {
		return &provider.Bundle{Versions: provider.Versions{"a": "1"}, Files: []provider.File{{Path: "first"}}}, nil
	})},
	{"AllOrNothing", "returns neither", onFailure(func(*mutant, *provider.Request, error) (*provider.Bundle, error) { return nil, nil })},
	{"MissingIsNotFoundAndNamesTheObject", "does not name the object", instead(provider.ErrNotFound)},
	{"MissingIsNotFoundAndNamesTheObject", "calls missing denied", onFailure(func(_ *mutant, _ *provider.Request, err error) (*provider.Bundle, error) {
		return nil, fmt.Errorf("%s: %w", err.Error(), provider.ErrDenied)
	})},
	{"MissingIsNotFoundAndNamesTheObject", "wraps no sentinel", instead(errOther)},
	{"DeniedIsDenied", "calls denied missing", instead(provider.ErrNotFound)},
	{"DeniedIsDenied", "wraps two sentinels", onFailure(func(_ *mutant, _ *provider.Request, err error) (*provider.Bundle, error) {
		return nil, fmt.Errorf("%w: %w", provider.ErrUnavailable, err)
	})},
	{"DeniedIsDenied", "says unchanged without asking", unchangedUnasked},
	{"OutageIsUnavailable", "calls an outage missing", instead(provider.ErrNotFound)},
	{"OutageIsUnavailable", "says unchanged without asking", unchangedUnasked},
	{"RecoversAfterOutage", "stays broken", func(m *mutant) {
		var failed error
		onFailure(func(_ *mutant, _ *provider.Request, err error) (*provider.Bundle, error) {
			failed = err
			return nil, err
		})(m)
		fetch := m.fetch
		m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			if failed != nil {
				return nil, failed
			}
			return fetch(ctx, req)
		}
	}},
	{"VersionStableWhileValueIs", "counts fetches", version(func(f *Fake, _ string, _ []byte) string { return fmt.Sprint(f.Fetches()) })},
	{"VersionStableWhileValueIs", "has no versions", onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) { b.Versions = nil })},
	{"VersionChangesWithValue", "never changes versions", version(func(*Fake, string, []byte) string { return "1" })},
	{"EqualValuesDifferentObjectsDifferentVersions", "hashes values only", version(func(f *Fake, _ string, value []byte) string { return f.version("", value) })},
	{"EqualValuesDifferentObjectsDifferentVersions", "uses plain hashes", version(func(_ *Fake, _ string, value []byte) string { return fmt.Sprintf("%x", sha256.Sum256(value)) })},
	{"VersionIsNotAPlainHash", "uses plain hashes with names", version(func(_ *Fake, name string, value []byte) string {
		return fmt.Sprintf("%x", sha256.Sum256(append([]byte(name), value...)))
	})},
	{"HeldAndCurrentMayBeUnchanged", "calls anything held unchanged", func(m *mutant) {
		m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			if len(req.Held.Versions) > 0 {
				return &provider.Bundle{Versions: req.Held.Versions, Unchanged: true}, nil
			}
			return m.fake.Fetch(ctx, req)
		}
	}},
	{"HeldAndCurrentMayBeUnchanged", "sends only what has changed", onSuccess(func(_ *Fake, req *provider.Request, b *provider.Bundle) {
		b.Files = slices.DeleteFunc(b.Files, func(f provider.File) bool { return req.Held.Versions[f.Path] == b.Versions[f.Path] })
	})},
	{"HeldAndCurrentMayBeUnchanged", "says unchanged of new versions", onSuccess(func(_ *Fake, req *provider.Request, b *provider.Bundle) {
		b.Unchanged = len(req.Held.Versions) > 0
	})},
	{"ExpiredIsServedWithAWarning", "does not warn", onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) { b.Warnings = nil })},
	{"ExpiredIsServedWithAWarning", "does not warn of what is unchanged", onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) {
		if b.Unchanged {
			b.Warnings = nil
		}
	})},
	{"ExpiredIsServedWithAWarning", "warns in other words each time", onSuccess(func(f *Fake, _ *provider.Request, b *provider.Bundle) {
		for i := range b.Warnings {
			b.Warnings[i].Message += fmt.Sprint(f.Fetches())
		}
	})},
	{"ExpiredIsServedWithAWarning", "warns of everything", onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) {
		b.Warnings = []provider.Warning{{Reason: provider.Expired, Message: "old and new"}}
	})},
	{"ExpiredIsServedWithAWarning", "refuses what has expired", func(m *mutant) {
		m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			b, err := m.fake.Fetch(ctx, req)
			if err == nil && len(b.Warnings) > 0 {
				return nil, provider.ErrDenied
			}
			return b, err
		}
	}},
	{"EachVolumeHasItsLease", "shares a lease", sharedLease},
	{"LeaseIsRenewedNotReissued", "reissues instead of renewing", forgetsLease},
	{"LeaseIsRenewedNotReissued", "names a lease anew", onSuccess(func(f *Fake, _ *provider.Request, b *provider.Bundle) { b.Lease.ID += fmt.Sprint(f.Fetches()) })},
	{"LeaseIsRenewedNotReissued", "does not say the lease", onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) { b.Lease = provider.Lease{} })},
	{"LeaseAloneGivesAllFiles", "leaves out the files of a lease that it renews", onSuccess(func(_ *Fake, req *provider.Request, b *provider.Bundle) {
		if !req.Held.Lease.IsZero() {
			b.Files = nil
		}
	})},
	{"ReleaseRevokes", "releases nothing", func(m *mutant) { m.release = func(context.Context, provider.Lease) error { return nil } }},
	{"ReleaseRevokes", "releases all leases", func(m *mutant) {
		m.release = func(context.Context, provider.Lease) error {
			m.fake.mu.Lock()
			defer m.fake.mu.Unlock()
			clear(m.fake.leases)
			return nil
		}
	}},
	{"ReleaseRevokes", "fails to release twice", func(m *mutant) {
		released := map[string]bool{}
		m.release = func(ctx context.Context, lease provider.Lease) error {
			if released[lease.ID] {
				return provider.ErrNotFound
			}
			released[lease.ID] = true
			return m.fake.Release(ctx, lease)
		}
	}},
	{"HonoursCancellation", "ignores its context", ignoresContext},
	{"HonoursCancellation", "returns the bare context error", onFailure(func(*mutant, *provider.Request, error) (*provider.Bundle, error) {
		return nil, context.Canceled
	})},
	{"HonoursCancellationWhileWaiting", "ignores its context", ignoresContext},
	{"HonoursCancellationWhileWaiting", "does not ask the backend", func(m *mutant) {
		m.fetch = func(context.Context, *provider.Request) (*provider.Bundle, error) {
			return nil, provider.ErrUnavailable
		}
	}},
	{"ConcurrentFetches", "keeps the request of another", func(m *mutant) {
		var mu sync.Mutex
		var last *provider.Request
		m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			mu.Lock()
			defer mu.Unlock()
			if last == nil {
				last = req
			}
			return m.fake.Fetch(ctx, last)
		}
	}},
	{"RequestIsNotModified", "adds a parameter", func(m *mutant) {
		m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			req.Parameters["default"] = "added"
			return m.fake.Fetch(ctx, req)
		}
	}},
	{"RequestIsNotModified", "changes what is held", func(m *mutant) {
		m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			defer clear(req.Held.Versions)
			return m.fake.Fetch(ctx, req)
		}
	}},
	{"ChangesAreTold", "tells of nothing", func(m *mutant) {
		m.changes = func(ctx context.Context, _ func(string)) error { <-ctx.Done(); return ctx.Err() }
	}},
	{"ChangesAreTold", "tells of an unknown object", func(m *mutant) {
		m.changes = func(ctx context.Context, changed func(string)) error {
			return m.fake.Changes(ctx, func(string) { changed("unknown") })
		}
	}},
	{"ChangesAreTold", "ends at once", func(m *mutant) {
		m.changes = func(context.Context, func(string)) error { return errors.ErrUnsupported }
	}},
	{"NoGoroutineLeft", "leaves a goroutine", func(m *mutant) {
		m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
			go func() { <-time.After(2 * time.Minute) }()
			return m.fake.Fetch(ctx, req)
		}
	}},
	{"NoSecretOutsideFiles", "quotes values in errors", leaky(func(b []byte) string { return string(b) })},
	{"NoSecretOutsideFiles", "quotes values in errors in hex", leaky(func(b []byte) string { return hex.EncodeToString(b) })},
	{"NoSecretOutsideFiles", "quotes values in errors in base64", leaky(func(b []byte) string { return base64.StdEncoding.EncodeToString(append([]byte("user:"), b...)) })},
	{"NoSecretOutsideFiles", "quotes values in errors as numbers", leaky(func(b []byte) string { return fmt.Sprint(b) })},
	{"NoSecretOutsideFiles", "logs values with klog", onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) {
		klog.V(9).InfoS("fetched", "data", printable(b))
	})},
	{"NoSecretOutsideFiles", "logs values with log", onSuccess(func(_ *Fake, _ *provider.Request, b *provider.Bundle) { log.Print(printable(b)) })},
	{"NoSecretOutsideFiles", "uses values as versions", version(func(_ *Fake, _ string, value []byte) string { return string(value) })},
}

// unchangedUnasked trusts the volume.
func unchangedUnasked(m *mutant) {
	var mu sync.Mutex
	seen := []provider.Versions{}
	m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
		mu.Lock()
		defer mu.Unlock()
		if slices.ContainsFunc(seen, req.Held.Versions.Equal) {
			return &provider.Bundle{Versions: maps.Clone(req.Held.Versions), Unchanged: true}, nil
		}
		b, err := m.fake.Fetch(ctx, req)
		if err == nil {
			seen = append(seen, maps.Clone(b.Versions))
		}
		return b, err
	}
}

// sharedLease answers every volume with the first bundle.
func sharedLease(m *mutant) {
	var first *provider.Bundle
	m.fetch = func(ctx context.Context, req *provider.Request) (b *provider.Bundle, err error) {
		if first == nil {
			first, err = m.fake.Fetch(ctx, req)
		}
		return first, err
	}
}

func forgetsLease(m *mutant) {
	m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
		fresh := *req
		fresh.Held = provider.Held{}
		return m.fake.Fetch(ctx, &fresh)
	}
}

func ignoresContext(m *mutant) {
	m.fetch = func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
		return m.fake.Fetch(context.WithoutCancel(ctx), req)
	}
}

func printable(b *provider.Bundle) []string {
	var all []string
	for _, file := range b.Files {
		all = append(all, string(file.Data.Reveal()))
	}
	return all
}

// TestTheSuiteCatchesMistakes runs each case on providers that it is there to
// reject.
func TestTheSuiteCatchesMistakes(t *testing.T) {
	cases := map[string]testCase{}
	applicable, _ := choose(new(Fake).Backend())
	for _, c := range applicable {
		cases[c.name] = c
	}
	proven := map[string]bool{}
	for _, m := range mutations {
		proven[m.caught] = true
		t.Run(m.caught+" rejects a provider that "+m.mistake, func(t *testing.T) {
			failures := verdict(t, cases[m.caught], harness{
				newBackend: func(testing.TB) Backend {
					mutated := &mutant{fakeBackend: fakeBackend{new(Fake)}}
					m.mutate(mutated)
					return mutated
				},
				connect:  direct,
				patience: 300 * time.Millisecond,
			})
			if len(failures) == 0 {
				t.Error("the case passes")
			}
			t.Logf("%q", failures)
		})
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(cases)), slices.Sorted(maps.Keys(proven))); diff != "" {
		t.Errorf("cases and mutations of them (-cases +mutations):\n%s", diff)
	}
}

// TestTheHarnessAloneRejectsNothing: without a mutation, each case passes in
// the recorder, so it is the mistake that the test above sees.
func TestTheHarnessAloneRejectsNothing(t *testing.T) {
	applicable, _ := choose(new(Fake).Backend())
	for _, c := range applicable {
		t.Run(c.name, func(t *testing.T) {
			failures := verdict(t, c, harness{
				newBackend: func(testing.TB) Backend { return &mutant{fakeBackend: fakeBackend{new(Fake)}} },
				connect:    direct,
				patience:   patience,
			})
			if len(failures) > 0 {
				t.Errorf("%q", failures)
			}
		})
	}
}
