package main

import (
	"context"
	"time"
)

// pollInterval is that of both charts.
const pollInterval = 2 * time.Minute

// measure measures everything.
func (w *world) measure(ctx context.Context, s settings) (*results, error) {
	start := time.Now()
	r := &results{Settings: s, Machine: thisMachine()}
	var err error
	if r.Built, err = w.built.describe(); err != nil {
		return nil, err
	}
	if err := w.makeLatencyClasses(ctx); err != nil {
		return nil, err
	}
	for _, part := range []func() error{
		func() error { return w.restart(ctx, pollInterval) },
		func() error { r.Cells, err = w.measureLatency(ctx, s); return err },
		func() error {
			more, err := w.measureRotation(ctx, s)
			r.Cells = append(r.Cells, more...)
			return err
		},
		func() error { r.Bursts, err = w.measureBursts(ctx, s); return err },
		func() error { r.Steady, err = w.measureSteady(ctx, s); return err },
		func() error { r.Starts, err = w.measureStarts(ctx, s); return err },
		func() error { r.Providers, err = w.measureProviders(ctx); return err },
		func() error { r.Costs, err = w.measureCosts(ctx, s); return err },
		func() error { r.Growth, err = w.measureGrowth(ctx, s); return err },
	} {
		if err := part(); err != nil {
			return nil, err
		}
	}
	for i, p := range w.peers {
		r.Repeated[i] = p.repeated.Load()
	}
	r.Took = time.Since(start)
	return r, nil
}

// measureProviders returns the memory of the container that our chart has
// beside the driver. Its providers are asked for nothing.
func (w *world) measureProviders(ctx context.Context) (memory, error) {
	p, err := w.startProgram("keymount-provider", w.built.provider, "--providers=file", "--socket-dir="+w.path("own"), "--file-root="+w.path("none"), "--v=0")
	if err != nil {
		return memory{}, err
	}
	if err := p.await(ctx, 10*time.Millisecond, func(ctx context.Context) error { return dialable(ctx, w.path("own", "file.sock")) }); err != nil {
		return memory{}, err
	}
	if err := sleep(ctx, 2*time.Second); err != nil {
		return memory{}, err
	}
	return memoryOf(p)
}
