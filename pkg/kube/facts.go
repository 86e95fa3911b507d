package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/keymount/keymount/pkg/provider"
)

// maxWantedFacts bounds how many facts a class has beforehand.
const maxWantedFacts = 16

// Facts lets fetches have annotations of their pod's service account and labels
// of the node: a provider names those that it misses, by a
// provider.MissingFactsError, and is asked once more with them. From then on
// the class has them beforehand.
//
// Only what somebody wanted is read, and only the service account of the pod
// that asks. The first use of a service account, or of the node, is a call.
// While Run runs, a watch of that one object follows, and answers are from
// memory, also while the API server is away; the watch ends when nobody has
// asked for an hour.
//
// Facts is safe for concurrent use, and holds no lock during a call.
type Facts struct {
	client  *Client
	node    string
	wanted  wants[provider.Fact]
	asking  asking[*metav1.PartialObjectMetadata] // many pods of one account may start at once
	watches watches[subject]                      // of what is known

	mu    sync.Mutex
	known map[subject]*report
}

// NewFacts returns what the API server knows of service accounts and the node.
// It makes no call.
func NewFacts(client *Client, node string) *Facts {
	return &Facts{client: client, node: node, wanted: wants[provider.Fact]{most: maxWantedFacts}, known: make(map[subject]*report)}
}

// Middleware returns the decorator that looks facts up. It belongs inside of
// coalesce and limit, as that of Tokens does, and outside of that one: facts
// decide which token is wanted, so that what is remembered of tokens must be of
// requests that have their facts.
func (f *Facts) Middleware() provider.Middleware {
	return func(name string, next provider.Provider) provider.Provider {
		return &informing{facts: f, name: name, next: next}
	}
}

// informing is a provider whose requests have the facts that it wants.
type informing struct {
	facts *Facts
	name  string
	next  provider.Provider
}

// Unwrap returns the provider that wants facts.
func (i *informing) Unwrap() provider.Provider { return i.next }

// Fetch implements provider.Provider. A provider that misses one fact after the
// other gets one more with each call.
func (i *informing) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	if req.Pod.Namespace == "" || req.Pod.ServiceAccount == "" { // nobody knows whose pod it is
		return i.next.Fetch(ctx, req)
	}
	u := useOf(i.name, req)
	req, err := i.facts.add(ctx, u, req, i.facts.wanted.by(u))
	if err != nil {
		return nil, err
	}
	bundle, err := i.next.Fetch(ctx, req)
	var missing *provider.MissingFactsError
	if !errors.As(err, &missing) || missing.Validate() != nil || req.Facts.Known(missing.Facts...) == nil {
		return bundle, err
	}
	if req, err = i.facts.add(ctx, u, req, missing.Facts); err != nil {
		return nil, err
	}
	return i.next.Fetch(ctx, req)
}

// add returns the request with the facts, and notes that they are wanted. If
// they cannot be had, it is not known any more what is wanted: the provider
// will say so if it still is.
func (f *Facts) add(ctx context.Context, u use, req *provider.Request, facts []provider.Fact) (*provider.Request, error) {
	if len(facts) == 0 {
		return req, nil
	}
	all, err := f.complete(ctx, req, facts)
	if err != nil {
		f.wanted.forget(u)
		return nil, fmt.Errorf("class %s: %w", req.Class, err)
	}
	f.wanted.add(u, facts...)
	own := *req
	own.Facts = all
	return &own, nil
}

// complete returns the facts that the request has, and those.
func (f *Facts) complete(ctx context.Context, req *provider.Request, facts []provider.Fact) (provider.Facts, error) {
	all := make(provider.Facts, len(req.Facts)+len(facts))
	maps.Copy(all, req.Facts)
	for _, fact := range facts {
		if _, known := all[fact]; known {
			continue
		}
		text, err := f.lookUp(ctx, req.Pod, fact)
		if err != nil {
			return nil, fmt.Errorf("look up %s: %w", fact, err)
		}
		all[fact] = text
	}
	return all, all.Validate()
}

// lookUp returns the text of a fact of the pod.
func (f *Facts) lookUp(ctx context.Context, pod provider.Pod, fact provider.Fact) (string, error) {
	if label, ok := fact.NodeLabel(); ok {
		is, err := f.about(ctx, subject{name: f.node})
		if err != nil {
			return "", err
		}
		return is.Labels[label], nil
	}
	annotation, _ := fact.ServiceAccountAnnotation()
	is, err := f.about(ctx, subject{pod.Namespace, pod.ServiceAccount})
	if err != nil {
		return "", err
	}
	return is.Annotations[annotation], nil
}
