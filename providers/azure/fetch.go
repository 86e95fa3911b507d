package azure

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// maxParallel is how many calls of one fetch are made at once.
const maxParallel = 8

// A fetch is one call of Provider.Fetch.
type fetch struct {
	*Provider
	*query
	vault *vault
	url   string // of the vault
	held  provider.Versions
}

// A read is what is asked for, whichever objects are made of it.
type read struct {
	kind     objectKind
	name     string
	version  string // empty: the current one
	history  int
	optional bool // it need not be there

	contents []content // the newest version first; without data as long as that is not needed
	absent   bool
}

// String says what is read.
func (r *read) String() string {
	if r.version == "" {
		return fmt.Sprintf("%s/%s", r.kind, r.name)
	}
	return fmt.Sprintf("%s/%s version %s", r.kind, r.name, r.version)
}

// absentVersion is the version of an object that is not there and need not be.
const absentVersion = "absent"

// run looks whether something changed, and if so reads all that is not at hand.
func (f *fetch) run(ctx context.Context) (*provider.Bundle, error) {
	if err := f.each(ctx, f.look); err != nil {
		return nil, err
	}
	b := &provider.Bundle{Versions: f.versions()}
	if err := f.judge(b); err != nil {
		return nil, err
	}
	if b.Versions.Equal(f.held) {
		b.Unchanged = true
		return b, nil
	}
	if err := f.each(ctx, f.complete); err != nil {
		return nil, err
	}
	var err error
	b.Files, err = f.files()
	return b, err
}

// each makes calls for all reads, some of them at once.
func (f *fetch) each(ctx context.Context, do func(context.Context, *read) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxParallel)
	for _, r := range f.reads {
		group.Go(func() error { return do(ctx, r) })
	}
	return group.Wait()
}

// look finds out which versions there are. That of a single object comes with
// its content, for the same price. What is pinned to the version that the
// volume holds needs no call, once it is known when that expires.
func (f *fetch) look(ctx context.Context, r *read) error {
	switch {
	case r.history > 1:
		return f.lookBack(ctx, r)
	case r.version != "" && f.holds(r):
		if end, ok := f.ends.of(f.key(r)); ok {
			r.contents = []content{{version: version{id: r.version, expires: end}}}
			return nil
		}
	}
	c, err := f.get(ctx, r, r.version)
	switch {
	case errors.Is(err, provider.ErrNotFound) && r.optional:
		r.absent = true
		return nil
	case err != nil:
		return err
	}
	if r.version != "" {
		f.ends.note(f.key(r), c.expires)
	}
	r.contents = []content{c}
	return nil
}

// key is what a pinned version goes by.
func (f *fetch) key(r *read) string {
	return fmt.Sprintf("%s%s/%s/%s", f.url, r.kind, r.name, r.version)
}

// holds reports whether the volume has the version that is asked for, of each
// object that is made of the read.
func (f *fetch) holds(r *read) bool {
	for _, o := range f.objects {
		if id, _, _ := strings.Cut(f.held[o.id], passwordMark); o.read == r && id != r.version {
			return false
		}
	}
	return len(f.held) > 0
}

// lookBack finds out which versions the history has.
func (f *fetch) lookBack(ctx context.Context, r *read) error {
	versions, err := f.list(ctx, r)
	switch {
	case err == nil && len(versions) == 0:
		err = f.failed(r, "list the versions", fmt.Errorf("there is none that is enabled: %w", provider.ErrNotFound))
		fallthrough
	case err != nil:
		if r.absent = r.optional && errors.Is(err, provider.ErrNotFound); r.absent {
			return nil
		}
		return err
	}
	for _, v := range versions {
		r.contents = append(r.contents, content{version: v})
	}
	return nil
}

// complete reads the content that is not at hand.
func (f *fetch) complete(ctx context.Context, r *read) error {
	for i, c := range r.contents {
		if c.data != nil {
			continue
		}
		whole, err := f.get(ctx, r, c.id)
		if err != nil {
			return err
		}
		whole.version = c.version
		r.contents[i] = whole
	}
	return nil
}

// passwordMark is between the version of a certificate and that of the password
// of its file.
const passwordMark = "+"

// versions returns those of all objects.
func (f *fetch) versions() provider.Versions {
	versions := make(provider.Versions)
	for _, o := range f.objects {
		if o.read.absent {
			versions[o.id] = absentVersion
			continue
		}
		for number, c := range o.read.contents {
			id := c.id
			if o.passwordRead != nil {
				id += passwordMark + o.passwordRead.contents[0].id
			}
			versions[o.idOf(number)] = id
		}
	}
	return versions
}

// judge says in the bundle what has expired, and what will next. Of a history
// only the newest version counts: older ones are there to be looked back at.
func (f *fetch) judge(b *provider.Bundle) error {
	now := time.Now()
	for _, r := range f.reads {
		if r.absent {
			continue
		}
		c := r.contents[0]
		switch {
		case c.expires.IsZero():
		case now.Before(c.expires):
			if b.Expires.IsZero() || c.expires.Before(b.Expires) {
				b.Expires = c.expires
			}
		default:
			text := fmt.Sprintf("vault %s: %s/%s version %s has expired at %s", f.vaultName, r.kind, r.name, c.id, c.expires.UTC().Format(time.RFC3339))
			if f.settings.RefuseExpired {
				return fmt.Errorf("%s, and the provider runs with --azure-refuse-expired: %w", text, provider.ErrDenied)
			}
			b.Warnings = append(b.Warnings, provider.Warning{Reason: provider.Expired, Message: text})
		}
	}
	b.Warnings = b.Warnings[:min(len(b.Warnings), provider.MaxWarnings)]
	return nil
}

// files returns those of all objects that are there.
func (f *fetch) files() ([]provider.File, error) {
	var files []provider.File
	for i, o := range f.objects {
		if o.read.absent {
			continue
		}
		var password secret.Value
		if o.passwordRead != nil {
			password = *o.passwordRead.contents[0].data
		}
		for number, c := range o.read.contents {
			made, err := o.files(c, number, password, f.settings.KeepOrder)
			if err != nil {
				return nil, fmt.Errorf("objects[%d]: vault %s: %v: %w", i, f.vaultName, o.read, err)
			}
			files = append(files, made...)
		}
	}
	return files, provider.CheckFiles(func(yield func(string, fs.FileMode) bool) {
		for _, file := range files {
			if !yield(file.Path, file.Mode) {
				return
			}
		}
	})
}

// failed says what was asked of whom, and in whose name.
func (f *fetch) failed(r *read, operation string, err error) error {
	var nobody *identityError
	if errors.As(err, &nobody) {
		return err
	}
	return fmt.Errorf("vault %s: %s of %v as %v: %w", f.vaultName, operation, r, f.identity, err)
}

// do makes a call as the identity. A token that the vault does not accept any
// more is replaced once.
func (f *fetch) do(ctx context.Context, call func(context.Context) error) error {
	token, err := f.token(ctx)
	if err != nil {
		return err
	}
	first := len(f.held) == 0
	attempt := func(token secret.Value) error {
		return explain(ctx, call(caller{token, first}.in(ctx)), token)
	}
	if err = attempt(token); status(err) != http.StatusUnauthorized {
		return err
	}
	f.wallet.Drop(f.identity.share, token.Equal)
	if token, err = f.token(ctx); err != nil {
		return err
	}
	return attempt(token)
}
