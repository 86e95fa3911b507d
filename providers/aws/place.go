package aws

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	"golang.org/x/sync/errgroup"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// maxParallel is how many calls of one fetch are made to one region at once.
const maxParallel = 8

// A place is one region as a fetch sees it.
type place struct {
	*fetch
	*regional
	region  string
	number  int      // of the region in the query
	results []result // by read.index; each is written by one call at a time

	mu   sync.Mutex
	left []*read // that a batch could not answer
}

// A result is the answer of one region to a read, or why there is none.
type result struct {
	answer
	asked bool
	err   error
}

// target is what the read asks of this region.
func (p *place) target(r *read) target { return r.targets[p.number] }

// A task is a call, which notes the results of its reads.
type task func(context.Context)

// fill makes the calls that answer the reads. Cheap ones need not bring the
// content.
func (p *place) fill(ctx context.Context, reads []*read, cheap bool) {
	p.left = nil
	each(ctx, p.plan(reads, cheap))
	each(ctx, p.singles(p.left, cheap))
}

// plan returns the calls for reads: as few as the services allow.
func (p *place) plan(reads []*read, cheap bool) []task {
	var alone, together, parameters []*read
	for _, r := range reads {
		t := p.target(r)
		switch {
		case r.service == parameterStore:
			parameters = append(parameters, r)
		case t.version == "" && t.label == "":
			together = append(together, r)
		default:
			alone = append(alone, r)
		}
	}
	if len(together) < 2 || p.refused.has(p.batchKey()) {
		alone, together = append(alone, together...), nil
	}
	tasks := p.singles(alone, cheap)
	for batch := range slices.Chunk(together, maxBatch) {
		tasks = append(tasks, func(ctx context.Context) { p.batch(ctx, batch) })
	}
	for _, batch := range p.parameterBatches(parameters) {
		tasks = append(tasks, func(ctx context.Context) { p.getParameters(ctx, batch) })
	}
	return tasks
}

// singles returns a call for each secret.
func (p *place) singles(reads []*read, cheap bool) []task {
	tasks := make([]task, len(reads))
	for i, r := range reads {
		tasks[i] = func(ctx context.Context) { p.single(ctx, r, cheap) }
	}
	return tasks
}

// each runs the tasks, some of them at once.
func each(ctx context.Context, tasks []task) {
	var group errgroup.Group
	group.SetLimit(maxParallel)
	for _, run := range tasks {
		group.Go(func() error {
			run(ctx)
			return nil
		})
	}
	_ = group.Wait()
}

// leave lets reads be made one by one.
func (p *place) leave(reads ...*read) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = append(p.left, reads...)
}

// found notes the content of a read.
func (p *place) found(r *read, version string, data []byte) {
	value := secret.New(data)
	p.results[r.index] = result{asked: true, answer: answer{version: version, data: &value}}
}

// missed notes why a read has no answer. The error says what was asked of whom,
// and in whose name.
func (p *place) missed(r *read, operation string, err error) {
	res := result{asked: true}
	var nobody *identityError
	switch {
	case errors.Is(err, provider.ErrNotFound) && r.optional:
		res.absent = true
	case errors.As(err, &nobody):
		res.err = err
	default:
		res.err = fmt.Errorf("%s: %s of %s as %v: %w", p.region, operation, p.target(r), p.identity, err)
	}
	p.results[r.index] = res
}

// pointer is the text as the SDK takes it; nil leaves it out.
func pointer(text string) *string {
	if text == "" {
		return nil
	}
	return aws.String(text)
}
