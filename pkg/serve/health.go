package serve

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// Health answers whether the process is alive (/healthz) and ready (/readyz).
// It is ready when every check passes, and alive when those that were added by
// Live do. The zero Health has no checks; it is safe for concurrent use.
type Health struct {
	Timeout time.Duration // of all checks together; zero means three seconds

	mu     sync.Mutex
	checks map[string]*check // guarded by mu
}

// A check runs once at a time: one that hangs costs one goroutine, not one per probe.
type check struct {
	run  func(context.Context) error
	slot chan struct{}
	live bool // says whether the process is alive, too
}

// errNoAnswer: a check did not answer in time.
var errNoAnswer = errors.New("no answer in time")

func (h *Health) timeout() time.Duration {
	if h.Timeout == 0 {
		return 3 * time.Second
	}
	return h.Timeout
}

// Add adds a check under a name that anyone who reaches the port may read; it
// replaces the one of that name. The check returns nil while it passes, and
// honours its context.
func (h *Health) Add(name string, run func(context.Context) error) { h.add(name, run, false) }

// Live is Add for a check of which a failure means that only a restart helps.
// It must not ask for readiness, which waits for it.
func (h *Health) Live(name string, run func(context.Context) error) { h.add(name, run, true) }

func (h *Health) add(name string, run func(context.Context) error, live bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.checks == nil {
		h.checks = map[string]*check{}
	}
	h.checks[name] = &check{run: run, slot: make(chan struct{}, 1), live: live}
}

// Ready runs all checks and returns the errors of those that fail, each with
// the name of its check.
func (h *Health) Ready(ctx context.Context) error {
	failed := h.failed(ctx, false)
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		errs = append(errs, fmt.Errorf("check %s: %w", name, failed[name]))
	}
	return errors.Join(errs...)
}

// ServeHTTP answers /healthz and /readyz. The body names the checks that fail,
// and the log says why.
func (h *Health) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	switch r.URL.Path {
	case "/healthz":
		h.answer(w, r, true, "not alive")
	case "/readyz":
		h.answer(w, r, false, "not ready")
	default:
		http.NotFound(w, r)
	}
}

func (h *Health) answer(w http.ResponseWriter, r *http.Request, live bool, verdict string) {
	failed := h.failed(r.Context(), live)
	if len(failed) == 0 {
		_, _ = fmt.Fprintln(w, "ok")
		return
	}
	names := slices.Sorted(maps.Keys(failed))
	for _, name := range names {
		klog.ErrorS(failed[name], "Check failed: "+verdict, "check", name)
	}
	http.Error(w, verdict+": "+strings.Join(names, ", "), http.StatusServiceUnavailable)
}

// failed runs all checks, or those of Live, side by side and returns the
// errors by name.
func (h *Health) failed(ctx context.Context, live bool) map[string]error {
	ctx, cancel := context.WithTimeout(ctx, h.timeout())
	defer cancel()
	h.mu.Lock()
	checks := maps.Clone(h.checks)
	h.mu.Unlock()
	maps.DeleteFunc(checks, func(_ string, c *check) bool { return live && !c.live })

	var (
		running sync.WaitGroup
		mu      sync.Mutex
		failed  = map[string]error{}
	)
	for name, c := range checks {
		running.Go(func() {
			if err := c.probe(ctx, name); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed[name] = err
			}
		})
	}
	running.Wait()
	return failed
}

// probe returns the answer of the check, or errNoAnswer when ctx ends first.
func (c *check) probe(ctx context.Context, name string) error {
	select {
	case c.slot <- struct{}{}:
	case <-ctx.Done():
		return errNoAnswer
	}
	answer := make(chan error, 1)
	go func() {
		err := guard("check "+name, func() error { return c.run(ctx) })
		<-c.slot
		answer <- err
	}()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return errNoAnswer
	}
}
