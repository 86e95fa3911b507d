package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keymount/keymount/pkg/provider"
)

// maxParallel is how many requests of one fetch are made at once.
const maxParallel = 8

// A fetch is one call of Provider.Fetch.
type fetch struct {
	*Provider
	*query
	conn *connection
	held provider.Held

	mu      sync.Mutex
	session *session          // of the identity; nil until one is needed
	mounts  map[*read]mount   // where reads go
	answers map[*read]*answer // nil for one that must be issued

	replacement sync.Once
	before      *tenure // what the volume comes with
	lease       *tenure // what it has; nil if nothing of it is leased
	issued      *tenure // what this fetch has issued
}

// run looks at all reads in the cheapest way that tells whether something
// changed, and reads the rest only if it did.
func (f *fetch) run(ctx context.Context) (*provider.Bundle, error) {
	var err error
	if f.lease, err = f.recall(ctx); err != nil {
		return nil, err
	}
	if err := f.survey(ctx); err != nil {
		return nil, err
	}
	if err := f.each(ctx, f.reads, f.look); err != nil {
		return nil, err
	}
	if err := f.issue(ctx, func(a *answer) bool { return a == nil }); err != nil {
		return nil, err
	}
	versions, err := f.versions()
	if err != nil {
		return nil, err
	}
	if versions.Equal(f.held.Versions) {
		return f.bundle(&provider.Bundle{Versions: versions, Unchanged: true})
	}
	return f.complete(ctx)
}

// survey learns the mounts of the reads that are to be made, one after the
// other: most are one.
func (f *fetch) survey(ctx context.Context) error {
	for _, r := range f.reads {
		if f.lease.answer(r) != nil {
			continue
		}
		m, err := f.mount(ctx, r)
		if err != nil {
			return f.failed(r, err)
		}
		f.mounts[r] = m
	}
	return nil
}

// complete reads what was only looked at, and returns all files.
func (f *fetch) complete(ctx context.Context) (*provider.Bundle, error) {
	unread := func(a *answer) bool { return a.response == nil && !a.absent }
	if err := f.issue(ctx, func(a *answer) bool { return unread(a) && a.kind == generated }); err != nil {
		return nil, err
	}
	var missing []*read
	for _, r := range f.reads {
		if unread(f.answers[r]) {
			missing = append(missing, r)
		}
	}
	if err := f.each(ctx, missing, f.read); err != nil {
		return nil, err
	}
	versions, err := f.versions()
	if err != nil {
		return nil, err
	}
	files, err := f.files()
	if err != nil {
		return nil, err
	}
	return f.bundle(&provider.Bundle{Versions: versions, Files: files})
}

// each calls do for all reads, some of them at once. The error says for which
// object it was.
func (f *fetch) each(ctx context.Context, reads []*read, do func(context.Context, *read) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxParallel)
	for _, r := range reads {
		group.Go(func() error {
			if err := do(ctx, r); err != nil {
				return f.failed(r, err)
			}
			return nil
		})
	}
	return group.Wait()
}

// failed names the first object that is made of a read. Who cannot log in can
// have none.
func (f *fetch) failed(r *read, err error) error {
	var login *loginError
	if errors.As(err, &login) {
		return err
	}
	for _, o := range f.objects {
		if o.read == r {
			return o.failed(fmt.Errorf("error requesting secret: %w", err)) // a text that people search for
		}
	}
	return err
}

// know notes what is known of a read.
func (f *fetch) know(r *read, a *answer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[r] = a
}

// look learns the version of a read, without its content where that can be.
// What may be leased it leaves to issue.
func (f *fetch) look(ctx context.Context, r *read) error {
	if a := f.lease.answer(r); a != nil {
		f.know(r, a)
		return nil
	}
	m := f.mounts[r]
	switch path, ok := m.metadata(r); {
	case !f.settled() && f.learned.get(f.login.identity, r, m.kind) == generated:
		f.know(r, nil)
		return nil
	case ok && len(f.held.Versions) > 0 && f.blind.get(f.login.identity, r, versioned) == versioned:
		return f.lookAt(ctx, r, path)
	default:
		return f.read(ctx, r)
	}
}

// settled reports whether the volume has an answer to each read already, and
// among them all that is leased: the others are not.
func (f *fetch) settled() bool {
	return len(f.held.Versions) > 0 && (f.lease != nil || f.held.Lease.IsZero())
}

// lookAt learns the version of a read from its metadata; of who may not see
// that, from the data.
func (f *fetch) lookAt(ctx context.Context, r *read, path string) error {
	response, err := f.do(ctx, call{method: http.MethodGet, path: path})
	switch {
	case errors.Is(err, provider.ErrDenied):
		f.blind.set(f.login.identity, r, unknown)
		return f.read(ctx, r)
	case errors.Is(err, provider.ErrNotFound):
		f.know(r, &answer{kind: versioned, absent: true})
		return f.mustBe(r)
	case err != nil:
		return err
	}
	a, err := ofMetadata(r, response)
	if err != nil {
		return err
	}
	f.know(r, a)
	if a.absent {
		return f.mustBe(r)
	}
	return nil
}

// mustBe returns an error for what is not there, unless it need not be.
func (f *fetch) mustBe(r *read) error {
	if r.optional {
		return nil
	}
	return fmt.Errorf("%v at %s: the version is deleted or was never written: %w", r, f.conn.address, provider.ErrNotFound)
}

// read reads with the session of the identity.
func (f *fetch) read(ctx context.Context, r *read) error {
	m := f.mounts[r]
	response, err := f.do(ctx, r.call())
	if err == nil && (m.kind == unknown || m.kind == generated) {
		if _, ends := termOf(r, response, time.Now()); ends {
			return f.giveUp(ctx, r, response)
		}
	}
	return f.take(r, response, err)
}

// giveUp ends a lease that was not expected, because it must not hang on a
// token that others use, and leaves the read to issue.
func (f *fetch) giveUp(ctx context.Context, r *read, response *response) error {
	f.learned.set(f.login.identity, r, generated)
	f.know(r, nil)
	s, err := f.own(ctx)
	if err == nil {
		_ = revokeLease(ctx, s, response.leaseID) // else it ends by itself
	}
	return err
}

// take notes the answer of a read that was made.
func (f *fetch) take(r *read, response *response, err error) error {
	m := f.mounts[r]
	switch {
	case errors.Is(err, provider.ErrNotFound) && r.optional:
		f.know(r, &answer{kind: m.kind, absent: true})
		return nil
	case (errors.Is(err, provider.ErrNotFound) || errors.Is(err, provider.ErrDenied)) && m.misses(r):
		return fmt.Errorf("%w (this is version 2 of the key-value engine: did you mean the secretPath %q?)", err, m.path+"data/"+r.path[len(m.path):])
	case err != nil:
		return err
	case response.empty() && r.optional:
		f.know(r, &answer{kind: m.kind, absent: true})
		return nil
	case response.empty():
		return errEmpty(r)
	}
	f.know(r, ofData(m.kind, response))
	return nil
}

// versions returns those of all objects.
func (f *fetch) versions() (provider.Versions, error) {
	versions := make(provider.Versions, len(f.objects))
	for _, o := range f.objects {
		version, err := o.version(f.answers[o.read], f.endpoint.address+" "+f.namespace, f.macKey)
		if err != nil {
			return nil, err
		}
		versions[o.name] = version
	}
	return versions, nil
}

// files returns the files of all objects that are there.
func (f *fetch) files() ([]provider.File, error) {
	files := make([]provider.File, 0, len(f.objects))
	for _, o := range f.objects {
		a := f.answers[o.read]
		if a.absent {
			continue
		}
		data, err := o.content(a, f.product)
		switch {
		case errors.Is(err, errNoKey) && o.optional:
			continue
		case err != nil:
			return nil, o.failed(err)
		}
		files = append(files, provider.File{Path: o.name, Mode: o.mode, Data: data})
	}
	return files, nil
}

// do makes a call as the identity. A token that the server does not accept is
// replaced once.
func (f *fetch) do(ctx context.Context, c call) (*response, error) {
	s, err := f.own(ctx)
	if err != nil {
		return nil, err
	}
	response, err := s.do(ctx, c)
	if status(err) != http.StatusForbidden {
		return response, err
	}
	fresh := f.instead(ctx, s)
	if fresh == s {
		return nil, err
	}
	response, err = fresh.do(ctx, c)
	if status(err) == http.StatusForbidden {
		fresh.vouched.Store(true)
	}
	return response, err
}

// own returns the session of the identity.
func (f *fetch) own(ctx context.Context) (*session, error) {
	f.mu.Lock()
	s := f.session
	f.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := f.sessions.get(ctx, f.login.identity, f.begin)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.session == nil {
		f.session = s
	}
	return f.session, nil
}

// begin logs in.
func (f *fetch) begin(ctx context.Context) (*session, error) {
	return f.login.begin(ctx, f.conn, f.namespace)
}
