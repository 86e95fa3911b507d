package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// maxAudiences bounds of how many audiences a class has tokens beforehand.
const maxAudiences = 8

// Tokens lets fetches have service account tokens of audiences that kubelet
// does not bring: a provider names the one that it misses, by a
// provider.MissingTokenError, and is asked once more with it. From then on the
// class has it beforehand. Tokens are kept in memory until they expire, and end
// with their pod.
//
// Tokens is safe for concurrent use, starts no goroutine, and holds no lock
// during a call.
type Tokens struct {
	client *Client
	wanted wants[string] // audiences

	mu     sync.Mutex
	minted map[holder]provider.Token
}

// A holder is whose a token is, and for whom.
type holder struct{ podUID, audience string }

// NewTokens returns the tokens that the API server makes. It makes no call.
func NewTokens(client *Client) *Tokens {
	return &Tokens{client: client, wanted: wants[string]{most: maxAudiences}, minted: make(map[holder]provider.Token)}
}

// Middleware returns the decorator that has tokens made. It belongs inside of
// coalesce, which goes by the audiences that kubelet brings and so shares a
// fetch before a token is made for it: volumes of one identity cost one token,
// not one each. It belongs inside of limit, whose deadline then bounds both
// fetches and the call between them.
func (t *Tokens) Middleware() provider.Middleware {
	return func(name string, next provider.Provider) provider.Provider {
		return &minting{tokens: t, name: name, next: next}
	}
}

// minting is a provider whose requests have the tokens that it wants.
type minting struct {
	tokens *Tokens
	name   string
	next   provider.Provider
}

// Unwrap returns the provider that wants tokens.
func (m *minting) Unwrap() provider.Provider { return m.next }

// Fetch implements provider.Provider. A provider that misses one token after
// the other gets one more with each call.
func (m *minting) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	if req.Pod.Name == "" || req.Pod.UID == "" || req.Pod.ServiceAccount == "" { // nothing that a token can be bound to
		return m.next.Fetch(ctx, req)
	}
	u := useOf(m.name, req)
	var err error
	for _, audience := range m.tokens.wanted.by(u) {
		if req, err = m.tokens.add(ctx, u, req, audience); err != nil {
			return nil, err
		}
	}
	bundle, err := m.next.Fetch(ctx, req)
	var missing *provider.MissingTokenError
	if !errors.As(err, &missing) || has(req, missing.Audience) {
		return bundle, err
	}
	if req, err = m.tokens.add(ctx, u, req, missing.Audience); err != nil {
		return nil, err
	}
	return m.next.Fetch(ctx, req)
}

// has reports whether the request has a valid token of the audience.
func has(req *provider.Request, audience string) bool {
	_, err := req.Tokens.For(audience, time.Now())
	return err == nil
}

// add returns the request with a token of the audience, and notes that it is
// wanted. If there is none to be had, it is not known any more what is wanted:
// the provider will say so if it still is.
func (t *Tokens) add(ctx context.Context, u use, req *provider.Request, audience string) (*provider.Request, error) {
	if has(req, audience) {
		return req, nil
	}
	token, err := t.token(ctx, req.Pod, audience)
	if err != nil {
		t.wanted.forget(u)
		return nil, fmt.Errorf("class %s: %w", req.Class, err)
	}
	t.wanted.add(u, audience)
	own := *req
	own.Tokens = make(provider.Tokens, len(req.Tokens)+1)
	maps.Copy(own.Tokens, req.Tokens)
	own.Tokens[audience] = token
	return &own, nil
}

// token returns a token of the pod that is kept, or makes one.
func (t *Tokens) token(ctx context.Context, pod provider.Pod, audience string) (provider.Token, error) {
	h := holder{pod.UID, audience}
	t.mu.Lock()
	token, kept := t.minted[h]
	t.mu.Unlock()
	if kept && !token.Expired(time.Now()) {
		return token, nil
	}
	token, err := t.client.mint(ctx, pod, audience)
	if err != nil {
		return provider.Token{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.minted[h] = token
	time.AfterFunc(time.Until(token.Expires), t.sweep)
	return token, nil
}

// sweep forgets what has expired.
func (t *Tokens) sweep() {
	now := time.Now()
	t.wanted.sweep(now)
	t.mu.Lock()
	defer t.mu.Unlock()
	maps.DeleteFunc(t.minted, func(_ holder, token provider.Token) bool { return token.Expired(now) })
}
