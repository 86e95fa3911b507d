package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	steadyAccounts = 10
	steadyFiles    = 5
	kubeletEvery   = 75 * time.Second // about how often kubelet calls for each volume
	idle           = 5 * time.Second
)

// A steady is what volumes cost that nobody changes, in an hour.
type steady struct {
	Driver   string
	Calls    float64 // of the provider
	Requests requests
	CPU      time.Duration
}

// measureSteady watches one driver after the other, while time passes faster
// by some factor: intervals and calls of kubelet are shorter by as much.
func (w *world) measureSteady(ctx context.Context, s settings) (all []steady, err error) {
	for _, p := range w.peers {
		say("%s: %d volumes for %v", p.name, s.SteadyVolumes, s.Steady)
		one, err := p.steady(ctx, s)
		if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
	return all, w.forget(ctx)
}

func (p *peer) steady(ctx context.Context, s settings) (steady, error) {
	for _, other := range p.world.peers {
		if err := other.stop(); err != nil {
			return steady{}, err
		}
	}
	factor := time.Duration(s.Compressed)
	if _, err := p.start(ctx, pollInterval/factor); err != nil {
		return steady{}, err
	}
	volumes, err := p.publishSteady(ctx, s.SteadyVolumes)
	if err != nil {
		return steady{}, err
	}
	// What follows from publishing has happened then.
	if err := p.kubelet(ctx, volumes, kubeletEvery/factor, kubeletEvery/factor); err != nil {
		return steady{}, err
	}
	before, err := p.look(ctx)
	if err != nil {
		return steady{}, err
	}
	if err := p.kubelet(ctx, volumes, s.Steady, kubeletEvery/factor); err != nil {
		return steady{}, err
	}
	after, err := p.look(ctx)
	if err != nil {
		return steady{}, err
	}
	resting, err := p.rest(ctx, volumes)
	if err != nil {
		return steady{}, err
	}
	return perHour(p.name, before, after, s, resting), nil
}

// publishSteady publishes the volumes one after the other, as a node fills. All
// are older than an interval to the upstream driver, as they are after the first.
func (p *peer) publishSteady(ctx context.Context, n int) (volumes []*volume, err error) {
	for i := range n {
		v := p.newVolume(className(steadyFiles, 0), fmt.Sprintf("steady-%d", i%steadyAccounts))
		if err := errors.Join(p.world.cluster.makePod(ctx, v, p.nodeName()), v.prepare(), v.publish(ctx), sleep(ctx, writeEvery)); err != nil {
			return nil, err
		}
		volumes = append(volumes, v)
	}
	for _, v := range volumes {
		if err := v.age(); err != nil {
			return nil, err
		}
	}
	return volumes, nil
}

// kubelet calls for one volume after the other, each once in an interval.
func (p *peer) kubelet(ctx context.Context, volumes []*volume, length, interval time.Duration) error {
	ticks := time.NewTicker(interval / time.Duration(len(volumes)))
	defer ticks.Stop()
	end := time.Now().Add(length)
	for i := 0; time.Now().Before(end); i++ {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticks.C:
		}
		if err := volumes[i%len(volumes)].publish(ctx); err != nil {
			return err
		}
	}
	return nil
}

// A sight is what was counted until some moment.
type sight struct {
	calls    int
	requests requests
	cpu      time.Duration
}

func (p *peer) look(ctx context.Context) (s sight, err error) {
	stats, err := p.world.control.Stats(ctx)
	if err != nil {
		return s, err
	}
	s.calls = stats.Mounts
	if s.requests, err = p.world.cluster.requests(ctx); err != nil {
		return s, err
	}
	s.cpu, err = cpuOf(p.process)
	return s, err
}

// rest removes the volumes, and returns the part of a processor that the
// driver needs without any.
func (p *peer) rest(ctx context.Context, volumes []*volume) (float64, error) {
	for _, v := range volumes {
		if err := v.remove(ctx); err != nil {
			return 0, err
		}
	}
	if err := sleep(ctx, time.Second); err != nil {
		return 0, err
	}
	before, err := cpuOf(p.process)
	if err != nil {
		return 0, err
	}
	if err := sleep(ctx, idle); err != nil {
		return 0, err
	}
	after, err := cpuOf(p.process)
	return float64(after-before) / float64(idle), err
}

// perHour takes counts of a compressed time to an hour. What the driver needs
// at rest is not compressed.
func perHour(name string, before, after sight, s settings, resting float64) steady {
	hours := s.Steady.Hours() * float64(s.Compressed)
	one := steady{Driver: name, Calls: float64(after.calls-before.calls) / hours, Requests: requests{}}
	for verb, n := range after.requests.since(before.requests) {
		one.Requests[verb] = n / hours
	}
	busy := float64(after.cpu-before.cpu) - resting*float64(s.Steady)
	one.CPU = time.Duration(max(0, busy)/hours + resting*float64(time.Hour))
	return one
}
