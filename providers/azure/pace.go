package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"golang.org/x/time/rate"

	"github.com/keymount/keymount/pkg/provider"
)

// errThrottled says that a request was not made, to spare the vault.
var errThrottled = errors.New("too many requests")

// A pace bounds the requests that one vault gets, of all volumes: a bucket of
// tokens, which holds two seconds' worth. Refreshes have at most three quarters
// of it, so that pods which wait to start always have the rest. While the vault
// says that it has enough, it gets none. A pace is a policy of the SDK's
// clients, for each attempt, and safe for concurrent use.
type pace struct {
	all, refreshes *rate.Limiter

	mu    sync.Mutex
	until time.Time // the vault wants no request before that
}

func newPace(perSecond int) *pace {
	bucket := func(share float64) *rate.Limiter {
		limit := float64(perSecond) * share
		return rate.NewLimiter(rate.Limit(limit), max(1, int(2*limit)))
	}
	return &pace{all: bucket(1), refreshes: bucket(0.75)}
}

// Do implements policy.Policy.
func (p *pace) Do(req *policy.Request) (*http.Response, error) {
	if err := p.wait(req.Raw().Context(), callerOf(req).first); err != nil {
		return nil, &unmadeError{err}
	}
	resp, err := req.Next()
	if err == nil && (resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable) {
		p.rest(retryAfter(resp.Header))
	}
	return resp, err
}

// wait returns when a request may be made.
func (p *pace) wait(ctx context.Context, first bool) error {
	if !first {
		if err := p.refreshes.Wait(ctx); err != nil {
			return throttled(ctx, err)
		}
	}
	for {
		if err := p.all.Wait(ctx); err != nil {
			return throttled(ctx, err)
		}
		left := p.left()
		if left <= 0 {
			return nil
		}
		if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < left {
			return throttled(ctx, fmt.Errorf("the vault wants none for %v", left.Round(time.Second)))
		}
		select {
		case <-time.After(left):
		case <-ctx.Done():
			return throttled(ctx, context.Cause(ctx))
		}
	}
}

func throttled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return fmt.Errorf("%w: %w: %w", errThrottled, err, provider.ErrUnavailable)
}

// left returns how long the vault wants no request.
func (p *pace) left() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Until(p.until)
}

// rest lets the vault have no request for a while.
func (p *pace) rest(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := time.Now().Add(d); until.After(p.until) {
		p.until = until
	}
}

// retryAfter returns how long an answer says to wait (RFC 9110, section
// 10.2.3), within reason.
func retryAfter(header http.Header) time.Duration {
	const most = time.Minute
	text := header.Get("Retry-After")
	if seconds, err := strconv.Atoi(text); err == nil {
		return min(max(0, time.Duration(min(seconds, 3600))*time.Second), most)
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(0, time.Until(at)), most)
	}
	return 0
}

// An unmadeError is not tried again.
type unmadeError struct{ error }

// NonRetriable is how the SDK is told.
func (*unmadeError) NonRetriable() {}

func (e *unmadeError) Unwrap() error { return e.error }
