// Package wallet keeps credentials that end, for providers that log in to a
// store: whoever needs some has those that are there, or waits for the one
// login that gets others.
package wallet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

const (
	// early is how long before their end credentials are replaced, at least;
	// of short ones a quarter of their life.
	early = 5 * time.Minute
	// timeout bounds a login.
	timeout = 45 * time.Second
	// unending is how long credentials are kept that do not say when they end.
	unending = time.Hour
)

// A Wallet keeps credentials of identities, which go by keys, until shortly
// before their end. The zero Wallet is empty. It is safe for concurrent use,
// and holds no lock during a login.
type Wallet[C any] struct {
	background sync.WaitGroup

	mu      sync.Mutex
	kept    map[string]kept[C]
	flights map[string]*flight[C]
}

// A Login gets credentials, and says when they end; never, if the time is
// zero. The context outlives the caller that asked first, whose values it has.
type Login[C any] func(context.Context) (C, time.Time, error)

// kept are credentials, and when to ask for others. At their end nobody has
// them any more.
type kept[C any] struct {
	creds      C
	renew, end time.Time
}

// A flight is a login that several callers wait for. It is cancelled when the
// last of them has gone.
type flight[C any] struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiters int // guarded by Wallet.mu
	creds   C
	err     error
}

// Get returns credentials of an identity, which login gets if there are none.
// While they cannot be replaced, those that are about to end do.
func (w *Wallet[C]) Get(ctx context.Context, key string, login Login[C]) (C, error) {
	have, f := w.board(ctx, key, login)
	if f == nil {
		return have.creds, nil
	}
	creds, err := w.wait(ctx, key, f)
	if errors.Is(err, provider.ErrUnavailable) && time.Now().Before(have.end) {
		return have.creds, nil
	}
	return creds, err
}

// Drop forgets credentials of an identity that are not accepted any more:
// those that spent reports true of, so that others that have replaced them
// stay.
func (w *Wallet[C]) Drop(key string, spent func(C) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if have, ok := w.kept[key]; ok && spent(have.creds) {
		delete(w.kept, key)
	}
}

// Len returns how many identities have credentials.
func (w *Wallet[C]) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.kept)
}

// Close waits for logins that nobody waits for any more. No call may be in
// progress or follow.
func (w *Wallet[C]) Close() { w.background.Wait() }

// board returns what is kept, and the flight to wait for unless that will do.
func (w *Wallet[C]) board(ctx context.Context, key string, login Login[C]) (kept[C], *flight[C]) {
	w.mu.Lock()
	defer w.mu.Unlock()
	have := w.kept[key]
	if time.Now().Before(have.renew) {
		return have, nil
	}
	f := w.flights[key]
	if f == nil {
		f = w.depart(ctx, key, login)
	}
	f.waiters++
	return have, f
}

// depart logs in, in the background. It needs w.mu.
func (w *Wallet[C]) depart(ctx context.Context, key string, login Login[C]) *flight[C] {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	f := &flight[C]{done: make(chan struct{}), cancel: cancel}
	if w.flights == nil {
		w.flights = make(map[string]*flight[C])
	}
	w.flights[key] = f
	w.background.Go(func() {
		defer cancel()
		creds, end, err := login(ctx)
		f.creds, f.err = creds, err
		w.land(key, f, end)
	})
	return f
}

// land hands the credentials out, and keeps them. Those of many pods are not
// replaced at one moment.
func (w *Wallet[C]) land(key string, f *flight[C], end time.Time) {
	defer close(f.done)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.abandon(key, f)
	if f.err != nil {
		return
	}
	now := time.Now()
	if end.IsZero() {
		end = now.Add(unending)
	}
	margin := min(early, end.Sub(now)/4)
	renew := end.Add(-margin - rand.N(max(margin, 1)))
	if w.kept == nil {
		w.kept = make(map[string]kept[C])
	}
	w.kept[key] = kept[C]{f.creds, renew, end}
	time.AfterFunc(end.Sub(now), w.sweep)
}

// wait returns the result of a flight, or an error when ctx ends first.
func (w *Wallet[C]) wait(ctx context.Context, key string, f *flight[C]) (C, error) {
	select {
	case <-f.done:
		return f.creds, f.err
	case <-ctx.Done():
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if f.waiters--; f.waiters == 0 {
		f.cancel()
		w.abandon(key, f)
	}
	var none C
	return none, fmt.Errorf("wait for credentials: %w: %w", context.Cause(ctx), provider.ErrUnavailable)
}

// abandon lets nobody join a flight any more. It needs w.mu.
func (w *Wallet[C]) abandon(key string, f *flight[C]) {
	if w.flights[key] == f {
		delete(w.flights, key)
	}
}

// sweep forgets what has ended.
func (w *Wallet[C]) sweep() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(w.kept, func(_ string, k kept[C]) bool { return !now.Before(k.end) })
}
