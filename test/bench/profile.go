package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keymount/keymount/test/bench/fake"
)

// profiled is how long each profile takes.
const profiled = 10 * time.Second

// profile writes CPU profiles of our driver while it does one thing again and
// again, for `go tool pprof`.
func (w *world) profile(ctx context.Context, dir string) error {
	p := w.peers[0]
	socket, args := filepath.Join(p.dir, "pprof.sock"), p.args
	p.args = func(rotation time.Duration) ([]string, error) {
		all, err := args(rotation)
		return append(all, "--pprof-socket="+socket), err
	}
	if err := w.makeLatencyClasses(ctx); err != nil {
		return err
	}
	if _, err := p.start(ctx, pollInterval); err != nil {
		return err
	}
	l := load{files: 5, callers: 1}
	stays := p.newVolume(className(l.files, l.latency), "")
	if err := errors.Join(stays.prepare(), stays.publish(ctx)); err != nil {
		return err
	}
	for name, do := range map[string]func() error{
		"publish": func() error {
			v := p.newVolume(stays.class, "")
			return errors.Join(v.prepare(), v.publish(ctx), v.remove(ctx))
		},
		"republish": func() error { return stays.publish(ctx) },
	} {
		times, err := profileWhile(ctx, socket, filepath.Join(dir, name+".pprof"), do)
		if err != nil {
			return err
		}
		say("%s: %d times in %v, %v each", name, times, profiled, profiled/time.Duration(times))
	}
	return stays.remove(ctx)
}

// profileWhile writes a profile of a process that does something for so long.
func profileWhile(ctx context.Context, socket, file string, do func() error) (times int, err error) {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		url := fmt.Sprintf("http://driver/debug/pprof/profile?seconds=%.0f", profiled.Seconds())
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := fake.Over(socket).Do(req)
		if err != nil {
			return err
		}
		defer func() { _ = resp.Body.Close() }()
		content, err := io.ReadAll(resp.Body)
		return errors.Join(err, os.WriteFile(file, content, 0o644))
	})
	for end := time.Now().Add(profiled); time.Now().Before(end); times++ {
		if err := do(); err != nil {
			return times, errors.Join(err, group.Wait())
		}
	}
	return times, group.Wait()
}
