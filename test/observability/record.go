package main

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"golang.org/x/sync/errgroup"

	"github.com/keymount/keymount/test/observability/traffic"
)

// job is the name under which the chart lets Prometheus find the drivers.
const job = "keymount"

// record plays the scenario, and scrapes all nodes meanwhile.
func record(ctx context.Context, config traffic.Config, length, every time.Duration) (r *recording, err error) {
	cluster, err := traffic.Start(ctx, config)
	if err != nil {
		return nil, err
	}
	defer func() {
		if e := cluster.Close(); err == nil {
			err = e
		}
	}()
	r = &recording{every: every}
	group, ctx := errgroup.WithContext(ctx)
	done := make(chan struct{})
	group.Go(func() error {
		defer close(done)
		return cluster.Play(ctx, length)
	})
	group.Go(func() error {
		r.began = time.Now()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			if err := r.scrape(ctx, cluster.Nodes); err != nil {
				return err
			}
			select {
			case <-done:
				return nil
			case <-tick.C:
			}
		}
	})
	err = group.Wait()
	return r, err
}

// scrape adds what all nodes expose now, as of one moment.
func (r *recording) scrape(ctx context.Context, nodes []*traffic.Node) error {
	texts := make([][]byte, len(nodes))
	errs := make([]error, len(nodes))
	var all sync.WaitGroup
	now := time.Now()
	for i, n := range nodes {
		all.Go(func() { texts[i], errs[i] = n.Scrape(ctx) })
	}
	all.Wait()
	for i, n := range nodes {
		if errs[i] != nil {
			return errs[i]
		}
		target := labels.FromStrings("job", job, "instance", n.Address, "node", n.Name)
		if err := r.scraped(texts[i], now, target); err != nil {
			return err
		}
		up := labels.NewBuilder(target)
		up.Set(model.MetricNameLabel, "up")
		r.add(up.Labels(), now, 1)
	}
	r.ended = now
	return nil
}
