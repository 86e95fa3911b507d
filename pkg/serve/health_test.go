package serve_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/serve"
)

func pass(context.Context) error { return nil }
func fail(context.Context) error { return errors.New("socket is missing") }

type reply struct {
	Code int
	Body string
}

func get(h http.Handler, path string) reply {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return reply{w.Code, w.Body.String()}
}

func TestHealthAnswers(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	bug := func(context.Context) error { panic(canary) }
	type checks map[string]func(context.Context) error
	for _, c := range []struct {
		name   string
		checks checks
		path   string
		want   reply
	}{
		{"alive without checks", nil, "/healthz", reply{200, "ok\n"}},
		{"ready without checks", nil, "/readyz", reply{200, "ok\n"}},
		{"ready when all pass", checks{"a": pass, "b": pass}, "/readyz", reply{200, "ok\n"}},
		{"failing checks are named in order", checks{"b": fail, "a": fail, "c": pass}, "/readyz", reply{503, "not ready: a, b\n"}},
		{"alive while not ready", checks{"a": fail}, "/healthz", reply{200, "ok\n"}},
		{"a check that hangs fails in time", checks{"a": hang, "b": pass}, "/readyz", reply{503, "not ready: a\n"}},
		{"a check that panics fails", checks{"a": bug}, "/readyz", reply{503, "not ready: a\n"}},
		{"other paths are not found", nil, "/secrets", reply{404, "404 page not found\n"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				captureLog(t, "10")
				var h serve.Health
				for name, check := range c.checks {
					h.Add(name, check)
				}
				if diff := cmp.Diff(c.want, get(&h, c.path)); diff != "" {
					t.Errorf("GET %s (-want +got):\n%s", c.path, diff)
				}
			})
		})
	}
}

func TestAFailedLiveCheckMeansNeitherAliveNorReady(t *testing.T) {
	captureLog(t, "0")
	var h serve.Health
	h.Add("plugins", pass)
	h.Live("socket", fail)
	for path, want := range map[string]reply{
		"/healthz": {503, "not alive: socket\n"},
		"/readyz":  {503, "not ready: socket\n"},
	} {
		if diff := cmp.Diff(want, get(&h, path)); diff != "" {
			t.Errorf("GET %s (-want +got):\n%s", path, diff)
		}
	}
	h.Live("socket", pass)
	if got := get(&h, "/healthz"); got.Code != 200 {
		t.Errorf("GET /healthz once the check passes = %v", got)
	}
}

func TestWhetherItIsAliveDependsOnLiveChecksOnly(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for _, c := range []struct {
		name        string
		live, ready func(context.Context) error
		want        reply
		took        time.Duration
	}{
		{"a check of readiness that hangs is not waited for", pass, hang, reply{200, "ok\n"}, 0},
		{"a live check that hangs fails in time", hang, pass, reply{503, "not alive: socket\n"}, 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := captureLog(t, "0")
				var h serve.Health
				h.Live("socket", c.live)
				h.Add("plugins", c.ready)
				start := time.Now()
				if got := get(&h, "/healthz"); got != c.want || time.Since(start) != c.took {
					t.Errorf("GET /healthz = %v after %v, want %v after %v", got, time.Since(start), c.want, c.took)
				}
				if lines := log.lines(`check="socket"`); len(lines) != c.want.Code/503 {
					t.Errorf("the log has %q", lines)
				}
			})
		})
	}
}

func TestReadySaysWhy(t *testing.T) {
	var h serve.Health
	h.Add("plugins", fail)
	h.Add("classes", pass)
	if err := h.Ready(t.Context()); err == nil || err.Error() != "check plugins: socket is missing" {
		t.Errorf("Ready = %v, want the check and its error", err)
	}
	h.Add("plugins", pass)
	if err := h.Ready(t.Context()); err != nil {
		t.Errorf("Ready after the check was replaced = %v, want nil", err)
	}
}

func TestTheLogSaysWhyItIsNotReady(t *testing.T) {
	log := captureLog(t, "0")
	var h serve.Health
	h.Add("plugins", fail)
	get(&h, "/readyz")
	if lines := log.lines("socket is missing"); len(lines) != 1 || !strings.Contains(lines[0], `check="plugins"`) {
		t.Errorf("the log lacks the reason: %q", log.lines(""))
	}
}

func TestACheckThatIgnoresItsContextRunsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		runs := 0
		h := serve.Health{Timeout: time.Second}
		h.Add("stuck", func(context.Context) error { runs++; <-release; return nil })
		for range 3 {
			start := time.Now()
			if err := h.Ready(t.Context()); err == nil || time.Since(start) != time.Second {
				t.Errorf("Ready = %v after %v, want an error after one second", err, time.Since(start))
			}
		}
		close(release)
		synctest.Wait()
		if runs != 1 {
			t.Errorf("the check ran %d times side by side, want 1", runs)
		}
		if err := h.Ready(t.Context()); err != nil {
			t.Errorf("Ready once the check answers = %v, want nil", err)
		}
	})
}
