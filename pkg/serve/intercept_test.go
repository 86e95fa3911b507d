package serve_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/serve"
)

type message struct{ secret string }

// call sends one request through Unary to the handler.
func call(ctx context.Context, method string, opts *serve.UnaryOptions, handler grpc.UnaryHandler) (any, error) {
	return serve.Unary(opts)(ctx, &message{canary}, &grpc.UnaryServerInfo{FullMethod: "/csi.v1.Node/" + method}, handler)
}

func TestEveryCallIsOneLineWithoutItsContent(t *testing.T) {
	for _, c := range []struct {
		name, method, verbosity string
		err                     error
		want                    []string // in the only line; nil means no line
	}{
		{"success at 2", "NodePublishVolume", "2", nil, []string{"I", "Call served", "/csi.v1.Node/NodePublishVolume", `code="OK"`, "duration="}},
		{"success is silent at 1", "NodePublishVolume", "1", nil, nil},
		{"probe is silent at 3", "Probe", "3", nil, nil},
		{"probe at 4", "Probe", "4", nil, []string{"I", "Call served", "/csi.v1.Node/Probe"}},
		{"failure", "NodePublishVolume", "0", status.Error(codes.NotFound, "no class"), []string{"E", "Call failed", `code="NotFound"`, "no class", "duration="}},
		{"failing probe", "Probe", "0", status.Error(codes.Unavailable, "not yet"), []string{"E", `code="Unavailable"`}},
		{"error without a code", "NodePublishVolume", "0", errors.New("odd"), []string{"E", `code="Unknown"`, "odd"}},
		{"deadline without a code", "NodePublishVolume", "0", context.DeadlineExceeded, []string{"E", `code="DeadlineExceeded"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := captureLog(t, c.verbosity)
			response := &message{canary}
			got, err := call(t.Context(), c.method, nil, func(context.Context, any) (any, error) { return response, c.err })
			if !errors.Is(err, c.err) || got != response {
				t.Errorf("call = %v, %v; want what the handler returned, %v", got, err, c.err)
			}
			lines := log.lines("")
			if len(lines) != min(len(c.want), 1) {
				t.Fatalf("logged %d lines: %q", len(lines), lines)
			}
			for _, part := range c.want {
				if !strings.Contains(lines[0], part) {
					t.Errorf("line %q lacks %q", lines[0], part)
				}
			}
			if len(c.want) > 0 && !strings.HasPrefix(lines[0], c.want[0]) {
				t.Errorf("line %q has not severity %s", lines[0], c.want[0])
			}
		})
	}
}

func TestPanicDoesNotKillTheProcess(t *testing.T) {
	for _, c := range []struct {
		name, kind string
		panic      func()
	}{
		{"with a string", "string", func() { panic(canary) }},
		{"with an error", "*errors.errorString", func() { panic(errors.New(canary)) }},
		{"of the runtime", "runtime.boundsError", func() { _ = []byte(canary)[len(canary):][0] }},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := captureLog(t, "10")
			_, err := call(t.Context(), "NodePublishVolume", nil, func(context.Context, any) (any, error) {
				c.panic()
				return nil, nil
			})
			if want := "internal error: panic of type " + c.kind; status.Code(err) != codes.Internal || status.Convert(err).Message() != want {
				t.Errorf("error = %v, want Internal %q", err, want)
			}
			if len(log.lines("Recovered from a panic")) != 1 || len(log.lines("intercept_test.go")) == 0 {
				t.Errorf("the log lacks the panic's stack: %q", log.lines(""))
			}
			if len(log.lines("Call failed")) != 1 {
				t.Errorf("the log lacks the call: %q", log.lines(""))
			}
		})
	}
}

// A stream has a context and nothing else.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

func TestPanicOfAStreamDoesNotKillTheProcess(t *testing.T) {
	log := captureLog(t, "10")
	info := &grpc.StreamServerInfo{FullMethod: "/keymount.v1.Notifier/Watch"}
	err := serve.Stream()(nil, stream{ctx: t.Context()}, info, func(any, grpc.ServerStream) error { panic(canary) })
	if status.Code(err) != codes.Internal {
		t.Errorf("error = %v, want Internal", err)
	}
	if len(log.lines("Recovered from a panic")) != 1 || len(log.lines(`method="/keymount.v1.Notifier/Watch" code="Internal"`)) != 1 {
		t.Errorf("the log lacks the panic or the call: %q", log.lines(""))
	}
}

func TestCallsWithoutADeadlineGetOne(t *testing.T) {
	for _, c := range []struct {
		name       string
		opts       *serve.UnaryOptions
		peer, want time.Duration
	}{
		{"two minutes by default", nil, 0, 2 * time.Minute},
		{"as the options say", &serve.UnaryOptions{Timeout: time.Second}, 0, time.Second},
		{"the peer's own is kept", &serve.UnaryOptions{Timeout: time.Second}, time.Hour, time.Hour},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				captureLog(t, "0")
				ctx := t.Context()
				if c.peer > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, c.peer)
					defer cancel()
				}
				start := time.Now()
				_, err := call(ctx, "NodePublishVolume", c.opts, func(ctx context.Context, _ any) (any, error) {
					<-ctx.Done()
					return nil, ctx.Err()
				})
				if got := time.Since(start); got != c.want || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the call ended after %v with %v, want a deadline after %v", got, err, c.want)
				}
			})
		})
	}
}
