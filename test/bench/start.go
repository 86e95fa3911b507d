package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/keymount/keymount/test/bench/stat"
)

// starts are how long it takes from the start of a process until it answers,
// and until its first volume is published.
type starts struct{ Answers, Publishes trio }

func (w *world) measureStarts(ctx context.Context, s settings) (r starts, err error) {
	say("start, %d times", s.Starts)
	for range s.Starts {
		for _, p := range w.peers {
			if err := p.stop(); err != nil {
				return r, err
			}
			answered, published, err := p.startAndPublish(ctx)
			if err != nil {
				return r, err
			}
			add := func(to *stat.Samples, d time.Duration) { *to = append(*to, d) }
			add(r.Answers.of(p), answered)
			add(r.Publishes.of(p), published)
		}
	}
	return r, w.forget(ctx)
}

func (p *peer) startAndPublish(ctx context.Context) (answered, published time.Duration, err error) {
	v := p.newVolume(className(5, 0), "")
	if err := v.prepare(); err != nil {
		return 0, 0, err
	}
	if answered, err = p.start(ctx, pollInterval); err != nil {
		return 0, 0, err
	}
	if err := p.process.await(ctx, 5*time.Millisecond, v.publish); err != nil {
		return 0, 0, err
	}
	published = time.Since(p.process.began)
	return answered, published, errors.Join(v.published(5), v.remove(ctx))
}

// sizeOf returns the size of a program, also packed as layers of images are.
func sizeOf(name, path string) (b binary, err error) {
	b.Name = name
	f, err := os.Open(path)
	if err != nil {
		return b, err
	}
	defer func() { _ = f.Close() }() // it was only read
	var packed counter
	z := gzip.NewWriter(&packed)
	if b.Size, err = io.Copy(z, f); err != nil {
		return b, fmt.Errorf("pack %s: %w", path, err)
	}
	err = z.Close()
	b.Packed = int64(packed)
	return b, err
}

// A counter counts what is written.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}
