package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/google/pprof/profile"
	"golang.org/x/sync/errgroup"

	"github.com/keymount/keymount/test/bench/fake"
	"github.com/keymount/keymount/test/bench/stat"
)

// A cost is what one thing costs that is done again and again, one after
// another without a pause.
type cost struct {
	Operation     string
	Took          stat.Samples
	CPU, Upstream time.Duration // of each driver's process, for one
	Parts         []part        // of CPU, by a profile; shares of 1
}

// The things that are done, of which the first is two calls.
const (
	costLife      = "publish and unpublish"
	costRepublish = "republish, nothing due"
)

// costFiles is how many files the volumes have.
const costFiles = 5

// measureCosts measures both drivers, with profiles of ours.
func (w *world) measureCosts(ctx context.Context, s settings) (costs []cost, err error) {
	err = w.profiled(ctx, s.Profiled, func(c cost, text []byte) error {
		p, err := profile.ParseData(text)
		if err != nil {
			return err
		}
		c.Parts = partsOf(p)
		costs = append(costs, c)
		return nil
	})
	return costs, err
}

// writeProfiles writes the profiles into a folder, for `go tool pprof`.
func (w *world) writeProfiles(ctx context.Context, dir string) error {
	if err := w.makeLatencyClasses(ctx); err != nil {
		return err
	}
	return w.profiled(ctx, full().Profiled, func(c cost, text []byte) error {
		say("%s: %d times, %v each", c.Operation, len(c.Took), c.Took.P50())
		return os.WriteFile(filepath.Join(dir, c.Operation+".pprof"), text, 0o644)
	})
}

// profiled does each thing for so long with either driver, and hands over what
// it costs and a profile of ours.
func (w *world) profiled(ctx context.Context, long time.Duration, visit func(cost, []byte) error) error {
	ours, upstream := w.peers[0], w.peers[1]
	socket, args := filepath.Join(ours.dir, "pprof.sock"), ours.args
	defer func() { ours.args = args }()
	ours.args = func(rotation time.Duration) ([]string, error) {
		all, err := args(rotation)
		return append(all, "--pprof-socket="+socket), err
	}
	if err := w.restart(ctx, pollInterval); err != nil {
		return err
	}
	for _, operation := range []string{costLife, costRepublish} {
		say("what it costs: %s", operation)
		c := cost{Operation: operation}
		var text bytes.Buffer
		group, profiling := errgroup.WithContext(ctx)
		group.Go(func() error { return fetchProfile(profiling, socket, long, &text) })
		var err error
		c.Took, c.CPU, err = ours.repeat(ctx, operation, long)
		if err = errors.Join(err, group.Wait()); err != nil {
			return err
		}
		if _, c.Upstream, err = upstream.repeat(ctx, operation, long); err != nil {
			return err
		}
		if err := visit(c, text.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// repeat does one thing for so long, beside a volume of the same class that
// stays, and returns what it took each time, and the CPU time of one.
func (p *peer) repeat(ctx context.Context, operation string, long time.Duration) (took stat.Samples, cpu time.Duration, err error) {
	stays := p.newVolume(className(costFiles, 0), "")
	if err := errors.Join(stays.prepare(), stays.publish(ctx)); err != nil {
		return nil, 0, err
	}
	do := func() error { return stays.publish(ctx) }
	if operation == costLife {
		do = func() error {
			v := p.newVolume(stays.class, "")
			return errors.Join(v.prepare(), v.publish(ctx), v.remove(ctx))
		}
	}
	before, err := cpuOf(p.process)
	if err != nil {
		return nil, 0, err
	}
	for end := time.Now().Add(long); time.Now().Before(end); {
		one, err := timed(do)
		if err != nil {
			return nil, 0, err
		}
		took = append(took, one)
	}
	after, err := cpuOf(p.process)
	return took, (after - before) / time.Duration(len(took)), errors.Join(err, stays.remove(ctx))
}

// fetchProfile has a process write a profile of what it does for so long.
func fetchProfile(ctx context.Context, socket string, long time.Duration, into io.Writer) error {
	url := fmt.Sprintf("http://driver/debug/pprof/profile?seconds=%.0f", long.Seconds())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := fake.Over(socket).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	_, err = io.Copy(into, resp.Body)
	return err
}
