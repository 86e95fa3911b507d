package aws

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/keymount/keymount/pkg/provider"
)

const (
	// early is how long before their end credentials are replaced, at least;
	// of short ones a quarter of their life.
	early = 5 * time.Minute
	// obtainTimeout bounds the calls for credentials.
	obtainTimeout = 45 * time.Second
)

// A wallet keeps the credentials of identities until shortly before their end.
// It is safe for concurrent use, and holds no lock during a call.
type wallet struct {
	background sync.WaitGroup

	mu      sync.Mutex
	kept    map[string]kept    // by identity.key
	flights map[string]*flight // by identity.key
}

// kept are credentials, and when to ask for others. At their end nobody has
// them any more.
type kept struct {
	creds aws.Credentials
	renew time.Time
}

// A flight asks for credentials that several fetches wait for. It is cancelled
// when the last of them has gone.
type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiters int // guarded by wallet.mu
	creds   aws.Credentials
	err     error
}

type obtainer func(context.Context) (aws.Credentials, error)

// get returns credentials of an identity, which obtain makes if there are none.
// While they cannot be replaced, those that are about to end do.
func (w *wallet) get(ctx context.Context, key string, obtain obtainer) (aws.Credentials, error) {
	have, f := w.board(ctx, key, obtain)
	if f == nil {
		return have, nil
	}
	creds, err := w.wait(ctx, key, f)
	if errors.Is(err, provider.ErrUnavailable) && have.CanExpire && time.Now().Before(have.Expires) {
		return have, nil
	}
	return creds, err
}

// board returns what is kept, and the flight to wait for unless that will do.
func (w *wallet) board(ctx context.Context, key string, obtain obtainer) (aws.Credentials, *flight) {
	w.mu.Lock()
	defer w.mu.Unlock()
	have := w.kept[key]
	if time.Now().Before(have.renew) {
		return have.creds, nil
	}
	f := w.flights[key]
	if f == nil {
		f = w.depart(ctx, key, obtain)
	}
	f.waiters++
	return have.creds, f
}

// depart asks for credentials, in the background. It needs w.mu.
func (w *wallet) depart(ctx context.Context, key string, obtain obtainer) *flight {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), obtainTimeout)
	f := &flight{done: make(chan struct{}), cancel: cancel}
	if w.flights == nil {
		w.flights = make(map[string]*flight)
	}
	w.flights[key] = f
	w.background.Go(func() {
		defer cancel()
		f.creds, f.err = obtain(ctx)
		w.land(key, f)
	})
	return f
}

// land hands the credentials out, and keeps them. Those of many pods are not
// replaced at one moment.
func (w *wallet) land(key string, f *flight) {
	defer close(f.done)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.abandon(key, f)
	if f.err != nil {
		return
	}
	now := time.Now()
	if !f.creds.CanExpire { // those of the environment, which may be replaced there
		f.creds.CanExpire, f.creds.Expires = true, now.Add(time.Hour)
	}
	margin := min(early, f.creds.Expires.Sub(now)/4)
	renew := f.creds.Expires.Add(-margin - rand.N(max(margin, 1)))
	if w.kept == nil {
		w.kept = make(map[string]kept)
	}
	w.kept[key] = kept{f.creds, renew}
	time.AfterFunc(f.creds.Expires.Sub(now), w.sweep)
}

// wait returns the result of a flight, or an error when ctx ends first.
func (w *wallet) wait(ctx context.Context, key string, f *flight) (aws.Credentials, error) {
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
	return aws.Credentials{}, fmt.Errorf("wait for AWS credentials: %w: %w", context.Cause(ctx), provider.ErrUnavailable)
}

// abandon lets nobody join a flight any more. It needs w.mu.
func (w *wallet) abandon(key string, f *flight) {
	if w.flights[key] == f {
		delete(w.flights, key)
	}
}

// sweep forgets what has ended.
func (w *wallet) sweep() {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	maps.DeleteFunc(w.kept, func(_ string, k kept) bool { return !now.Before(k.creds.Expires) })
}

// drop forgets credentials that are not accepted any more, unless others have
// replaced them already.
func (w *wallet) drop(key string, creds aws.Credentials) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.kept[key].creds.AccessKeyID == creds.AccessKeyID {
		delete(w.kept, key)
	}
}
