package aws

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/keymount/keymount/pkg/provider"
)

// regionTimeout is how long one of two regions may keep the other's answer
// waiting.
const regionTimeout = 15 * time.Second

// A fetch is one call of Provider.Fetch.
type fetch struct {
	*Provider
	*query
	held   provider.Versions
	places []*place // one for each region
}

// run looks at all reads in the cheapest way that tells whether something
// changed, and reads the rest only if it did.
func (f *fetch) run(ctx context.Context) (*provider.Bundle, error) {
	var reads []*read
	for _, r := range f.reads {
		if !r.known(f.held) {
			reads = append(reads, r)
		}
	}
	if err := f.gather(ctx, reads, len(f.held) > 0); err != nil {
		return nil, err
	}
	answers, err := f.answers()
	if err != nil {
		return nil, err
	}
	if versions := f.versions(answers); versions.Equal(f.held) {
		return &provider.Bundle{Versions: versions, Unchanged: true}, nil
	}
	reads = nil
	for _, r := range f.reads {
		if a := answers[r.index]; a.data == nil && !a.absent {
			reads = append(reads, r)
		}
	}
	if err := f.gather(ctx, reads, false); err != nil {
		return nil, err
	}
	if answers, err = f.answers(); err != nil {
		return nil, err
	}
	files, err := f.files(answers)
	if err != nil {
		return nil, err
	}
	return &provider.Bundle{Versions: f.versions(answers), Files: files}, nil
}

// gather lets each region answer the reads, all at once. A cheap answer need
// not have the content.
func (f *fetch) gather(ctx context.Context, reads []*read, cheap bool) error {
	if len(reads) == 0 {
		return nil
	}
	if _, err := f.credentials(ctx); err != nil {
		return err
	}
	ctx, cancel := f.bounded(ctx)
	defer cancel()
	var regions sync.WaitGroup
	for _, p := range f.places {
		regions.Go(func() { p.fill(ctx, reads, cheap) })
	}
	regions.Wait()
	return nil
}

// bounded returns a context in which one region is waited for: no longer than
// the other one can bear.
func (f *fetch) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if len(f.regions) < 2 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, regionTimeout)
}

// answers returns that of each read, whatever region it is of.
func (f *fetch) answers() ([]answer, error) {
	all := make([]answer, len(f.reads))
	for i, r := range f.reads {
		a, asked, err := f.settle(r)
		if err != nil {
			return nil, f.failed(r, err)
		}
		if !asked { // it is known
			a.version = f.held[r.file]
		}
		all[i] = a
	}
	return all, nil
}

// settle returns the answer of the first region that has one. Without one, an
// outage of all regions is an outage; and what one region says that would be
// wrong tomorrow too is an error, whatever the other says, so that it does not
// come to light when the other one fails.
func (f *fetch) settle(r *read) (a answer, asked bool, err error) {
	var outages []error
	found := false
	for _, p := range f.places {
		result := p.results[r.index]
		switch {
		case !result.asked:
			continue
		case result.err == nil && !found:
			a, found = result.answer, true
		case errors.Is(result.err, provider.ErrUnavailable):
			outages = append(outages, result.err)
		case result.err != nil:
			return a, true, result.err
		}
		asked = true
	}
	if found || !asked {
		return a, asked, nil
	}
	return a, true, fmt.Errorf("Failed to fetch secret from all regions: %w", joined(outages)) // a text that people search for
}

// failed names the first object that is made of a read.
func (f *fetch) failed(r *read, err error) error {
	for i, o := range f.objects {
		if o.read == r {
			return fmt.Errorf("objects[%d] (%s): %w", i, o.name, err)
		}
	}
	return err
}

// versions returns those of all objects.
func (f *fetch) versions(answers []answer) provider.Versions {
	versions := make(provider.Versions, len(f.objects))
	for _, o := range f.objects {
		a := answers[o.read.index]
		versions[o.file.path] = a.version
		if a.absent {
			versions[o.file.path] = absentVersion
		}
	}
	return versions
}

// files returns those of all objects that are there.
func (f *fetch) files(answers []answer) ([]provider.File, error) {
	var files []provider.File
	for i, o := range f.objects {
		made, err := o.content(answers[o.read.index])
		if err != nil {
			return nil, fmt.Errorf("objects[%d] (%s): %w", i, o.name, err)
		}
		files = append(files, made...)
	}
	return files, nil
}

// credentials returns those of the identity.
func (f *fetch) credentials(ctx context.Context) (aws.Credentials, error) {
	return f.wallet.Get(ctx, f.identity.key, f.obtain)
}

// do makes a call as the identity. Credentials that the service does not
// accept any more are replaced once.
func (f *fetch) do(ctx context.Context, call func(aws.CredentialsProvider) error) error {
	creds, err := f.credentials(ctx)
	if err != nil {
		return err
	}
	if err = explain(call(static(creds))); !is(err, spent...) {
		return err
	}
	f.wallet.Drop(f.identity.key, func(c aws.Credentials) bool { return c.AccessKeyID == creds.AccessKeyID })
	if creds, err = f.credentials(ctx); err != nil {
		return err
	}
	return explain(call(static(creds)))
}
