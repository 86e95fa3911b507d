package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keymount/keymount/test/bench/stat"
)

const (
	burstVolumes = 100
	burstFiles   = 5
)

// A burst is many volumes that are published at once.
type burst struct {
	Accounts         int // that the pods have
	Ours, Upstream   stat.Samples
	OurCalls, UpCall int // of the provider, each time
}

// measureBursts measures until the last volume is published.
func (w *world) measureBursts(ctx context.Context, s settings) (bursts []burst, err error) {
	for _, accounts := range []int{1, 10, burstVolumes} {
		say("%d volumes of %d service accounts at once, %d times", burstVolumes, accounts, s.Bursts)
		b := burst{Accounts: accounts}
		for range s.Bursts {
			for _, p := range w.peers {
				took, calls, err := p.burst(ctx, accounts)
				if err != nil {
					return nil, fmt.Errorf("burst of %d service accounts: %w", accounts, err)
				}
				if p.name == upstreamName {
					b.Upstream, b.UpCall = append(b.Upstream, took), calls
				} else {
					b.Ours, b.OurCalls = append(b.Ours, took), calls
				}
			}
		}
		bursts = append(bursts, b)
	}
	return bursts, w.forget(ctx)
}

// burst publishes volumes, and removes them. The upstream driver may make 30
// calls of the API server at once again after that.
func (p *peer) burst(ctx context.Context, accounts int) (took time.Duration, calls int, err error) {
	volumes := make([]*volume, burstVolumes)
	round := p.world.serial // no result of the time before may be shared
	for i := range volumes {
		volumes[i] = p.newVolume(className(burstFiles, slow), fmt.Sprintf("account-%d-%d", round, i%accounts))
		if err := volumes[i].prepare(); err != nil {
			return 0, 0, err
		}
	}
	before, err := p.world.control.Stats(ctx)
	if err != nil {
		return 0, 0, err
	}
	took, err = timed(func() error {
		_, err := together(len(volumes), func(i int) error { return volumes[i].publish(ctx) })
		return err
	})
	if err != nil {
		return 0, 0, err
	}
	after, err := p.world.control.Stats(ctx)
	for _, v := range volumes {
		err = errors.Join(err, v.published(burstFiles), v.remove(ctx))
	}
	return took, after.Mounts - before.Mounts, errors.Join(err, sleep(ctx, 2*time.Second))
}
