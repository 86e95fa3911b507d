package azure

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/azure/azuretest"
)

func TestAVaultGetsNoMoreThanItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := newPace(50), time.Now()
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if err := p.wait(t.Context(), true); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took < 17*time.Second || took > 19*time.Second {
			t.Errorf("1000 requests took %v, want 18 s: 100 at once, and 50 a second", took)
		}
	})
}

// A node whose volumes all refresh at once still starts pods.
func TestPodsThatStartDoNotQueueBehindRefreshes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(50)
		ctx, cancel := context.WithCancel(t.Context())
		var refreshes sync.WaitGroup
		var done atomic.Int32
		for range 5000 {
			refreshes.Go(func() {
				if p.wait(ctx, false) == nil {
					done.Add(1)
				}
			})
		}
		time.Sleep(10 * time.Second)
		began := time.Now()
		for range 10 {
			if err := p.wait(ctx, true); err != nil {
				t.Error(err)
			}
		}
		if took := time.Since(began); took > 2*time.Second {
			t.Errorf("10 requests of pods that start took %v", took)
		}
		cancel()
		refreshes.Wait()
		if n := done.Load(); n < 300 || n > 550 {
			t.Errorf("%d refreshes in 10 s, want what the pace allows", n)
		}
	})
}

func TestAVaultThatHasEnoughIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackendOf(t, &azuretest.Options{Pipe: true}, nil)
		b.vault.PutSecret("db", "x")
		held := b.fetch(t, b.ask(list("secret", "db")))
		b.vault.Fail("secrets/get", azuretest.Fault{Status: http.StatusTooManyRequests, Code: "Throttled", RetryAfter: "30", Times: 1})
		req := b.ask(list("secret", "db"))
		req.Held.Versions = held.Versions
		_, err := b.provider.Fetch(t.Context(), req)
		if !errors.Is(err, provider.ErrUnavailable) {
			t.Fatalf("Fetch = %v, want %v", err, provider.ErrUnavailable)
		}
		b.Forget()
		began := time.Now()
		short, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := b.provider.Fetch(short, b.ask(list("secret", "db"))); !errors.Is(err, provider.ErrUnavailable) || !errors.Is(err, errThrottled) {
			t.Errorf("Fetch = %v, want %v", err, errThrottled)
		}
		if took := time.Since(began); took > time.Second || len(b.Calls()) != 0 {
			t.Errorf("who cannot wait so long is told after %v and %d calls", took, len(b.Calls()))
		}
		b.poll(t, req, held)
		if took := time.Since(began); took < 29*time.Second || took > 32*time.Second {
			t.Errorf("the next request was made after %v, want half a minute", took)
		}
	})
}

func TestAShortRestIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackendOf(t, &azuretest.Options{Pipe: true}, nil)
		b.vault.PutSecret("db", "x")
		b.vault.Fail("secrets/get", azuretest.Fault{Status: http.StatusTooManyRequests, Code: "Throttled", RetryAfter: "3", Times: 1})
		began := time.Now()
		expect(t, "files", contents(b.fetch(t, b.ask(list("secret", "db")))), map[string]string{"db": "x"})
		if took := time.Since(began); took < 3*time.Second || took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		expect(t, "reads", b.Count("secrets/get"), 2)
	})
}

func TestHowLongAnAnswerSaysToWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for text, want := range map[string]time.Duration{
			"": 0, "x": 0, "-1": 0, "0": 0, "7": 7 * time.Second, "999999999999": time.Minute, "99999": time.Minute,
			time.Now().Add(20 * time.Second).UTC().Format(http.TimeFormat): 20 * time.Second,
			time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat):       0,
			time.Now().Add(time.Hour).UTC().Format(http.TimeFormat):        time.Minute,
		} {
			if got := retryAfter(http.Header{"Retry-After": {text}}); got != want {
				t.Errorf("Retry-After %q: %v, want %v", text, got, want)
			}
		}
	})
}
