package kube

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/keymount/keymount/pkg/provider"
)

const (
	// askedFor is how long an answer counts whose subject no watch has seen.
	askedFor = time.Minute
	// forgetEvery is how often it is looked for what has not been used for long.
	forgetEvery = wantedFor / 12
)

// A subject is what facts are of: a service account or, without a namespace, the
// node.
type subject struct{ namespace, name string }

// String names the subject for messages.
func (s subject) String() string {
	if s.namespace == "" {
		return "node " + s.name
	}
	return "service account " + s.namespace + "/" + s.name
}

// A report is what is known of a subject. It is guarded by Facts.mu.
type report struct {
	is      *metav1.PartialObjectMetadata // nil if the subject has gone
	watched bool                          // whether a watch saw it so, else it was asked for
	asked   time.Time
	last    time.Time // that somebody wanted to know
}

// about returns what is known of a subject, or asks.
func (f *Facts) about(ctx context.Context, s subject) (*metav1.PartialObjectMetadata, error) {
	if is := f.recall(s); is != nil {
		return is, nil
	}
	return f.asking.ask(ctx, s.String(), func(ctx context.Context) (*metav1.PartialObjectMetadata, error) {
		is, err := f.client.metadata(s).Get(ctx, s.name, metav1.GetOptions{})
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", s, notTold(err))
		}
		f.note(s, is)
		return is, nil
	})
}

// recall returns what is known of a subject; nil if that is nothing.
func (f *Facts) recall(s subject) *metav1.PartialObjectMetadata {
	f.mu.Lock()
	defer f.mu.Unlock()
	known, now := f.known[s], time.Now()
	if known == nil {
		return nil
	}
	known.last = now
	if !known.watched && now.Sub(known.asked) > askedFor {
		return nil
	}
	return known.is
}

// note remembers what the API server answered, and has the subject watched from
// now on. What a watch saw is newer.
func (f *Facts) note(s subject, is *metav1.PartialObjectMetadata) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known, now := f.known[s], time.Now()
	if known == nil {
		known = &report{last: now}
		f.known[s] = known
		f.watches.use(s, func(ctx context.Context) {
			watchOne(ctx, f.client.metadata(s), s.name, &metav1.PartialObjectMetadata{}, func(is *metav1.PartialObjectMetadata) { f.see(known, is) })
		})
	}
	if !known.watched {
		known.is, known.asked = is, now
	}
}

// see notes what a watch saw.
func (f *Facts) see(known *report, is *metav1.PartialObjectMetadata) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known.is, known.watched = is, true
}

// Run watches what is in use, until ctx ends.
func (f *Facts) Run(ctx context.Context) error {
	var forgetting sync.WaitGroup
	forgetting.Go(func() { wait.UntilWithContext(ctx, func(context.Context) { f.sweep() }, forgetEvery) })
	f.watches.run(ctx)
	forgetting.Wait()
	return nil
}

// sweep forgets what nobody has asked for long.
func (f *Facts) sweep() {
	now := time.Now()
	f.wanted.sweep(now)
	f.mu.Lock()
	defer f.mu.Unlock()
	for s, known := range f.known {
		if now.Sub(known.last) > wantedFor {
			f.watches.drop(s)
			delete(f.known, s)
		}
	}
}

// notTold says why the API server does not tell of a subject, and wraps a
// sentinel of package provider.
func notTold(err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return fmt.Errorf("it is not there: %w: %w", err, provider.ErrNotFound)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the driver may not read service accounts and nodes, which lookups.enabled of the chart grants: %w: %w", err, provider.ErrDenied)
	default:
		return fmt.Errorf("ask the API server: %w: %w", err, provider.ErrUnavailable)
	}
}
