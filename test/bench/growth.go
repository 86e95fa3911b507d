package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/keymount/keymount/test/bench/stat"
)

// lookback is the number of publishes that a stage is the median of.
const lookback = 30

// A growth is what a driver costs with more and more volumes, and then with
// more and more classes in the cluster.
type growth struct {
	Driver          string
	Volumes         []stage
	Classes         []stage
	Empty, Crowded  memory  // without volumes, with few and with many classes
	PublishSlope    float64 // nanoseconds for each volume
	RSSSlope        float64 // bytes for each volume
	RSSOfClassSlope float64 // bytes for each class
}

// A stage is a number of volumes, or of classes.
type stage struct {
	N       int
	Publish stat.Samples
	Memory  memory
}

// measureGrowth publishes volumes of both drivers in turn, as fast as the
// client of the upstream one allows.
func (w *world) measureGrowth(ctx context.Context, s settings) ([]growth, error) {
	for _, p := range w.peers {
		p.cgroup = newCgroup(p.name)
		w.defers(func() error { return errors.Join(p.stop(), p.cgroup.remove()) })
	}
	if err := w.restart(ctx, time.Hour); err != nil { // no refresh in between
		return nil, err
	}
	both := make([]growth, len(w.peers))
	for i, p := range w.peers {
		both[i].Driver = p.name
	}
	if err := w.idle(ctx, func(i int, m memory) { both[i].Empty = m }); err != nil {
		return nil, err
	}
	release, err := w.use(ctx, growing) // a first volume of the class, which is not counted
	if err != nil {
		return nil, err
	}
	volumes, err := w.growVolumes(ctx, s, both)
	if err != nil {
		return nil, err
	}
	if err := w.growClasses(ctx, s, both); err != nil {
		return nil, err
	}
	for _, v := range volumes {
		if err := v.remove(ctx); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(release(), w.forget(ctx), w.restart(ctx, time.Hour)); err != nil {
		return nil, err
	}
	err = w.idle(ctx, func(i int, m memory) { both[i].Crowded = m })
	for i := range both {
		both[i].fit()
	}
	return both, err
}

// growing is what volumes are like.
var growing = load{files: 5, callers: 1}

// idle looks at drivers that have no volume, and have had one, so that what
// happens once has happened.
func (w *world) idle(ctx context.Context, note func(i int, m memory)) error {
	release, err := w.use(ctx, growing)
	if err != nil {
		return err
	}
	return errors.Join(release(), w.settle(ctx, note))
}

// settle looks at the memory of both drivers once they are at rest.
func (w *world) settle(ctx context.Context, note func(i int, m memory)) error {
	if err := sleep(ctx, 2*time.Second); err != nil {
		return err
	}
	for i, p := range w.peers {
		m, err := p.memory()
		if err != nil {
			return err
		}
		note(i, m)
	}
	return nil
}

// growVolumes publishes until there are as many volumes as the last stage has.
func (w *world) growVolumes(ctx context.Context, s settings, both []growth) (volumes []*volume, err error) {
	took := make([]stat.Samples, len(both))
	for _, n := range s.Volumes {
		say("growth to %d volumes", n)
		for len(volumes) < n*len(both) {
			began := time.Now()
			for i, p := range w.peers {
				v, d, err := p.grow(ctx)
				if err != nil {
					return nil, err
				}
				volumes, took[i] = append(volumes, v), append(took[i], d)
			}
			if err := sleep(ctx, writeEvery-time.Since(began)); err != nil {
				return nil, err
			}
		}
		err := w.settle(ctx, func(i int, m memory) {
			last := took[i][max(0, len(took[i])-lookback):]
			both[i].Volumes = append(both[i].Volumes, stage{n, last, m})
		})
		if err != nil {
			return nil, err
		}
	}
	return volumes, nil
}

// grow publishes one more volume, of a pod that is in the cluster.
func (p *peer) grow(ctx context.Context) (*volume, time.Duration, error) {
	v := p.newVolume(className(growing.files, 0), "")
	if err := errors.Join(p.world.cluster.makePod(ctx, v, p.nodeName()), v.prepare(), p.wake(ctx)); err != nil {
		return nil, 0, err
	}
	took, err := timed(func() error { return v.publish(ctx) })
	return v, took, err
}

// growClasses adds classes that no pod uses while the volumes are there.
func (w *world) growClasses(ctx context.Context, s settings, both []growth) error {
	if err := w.cluster.makeNamespace(ctx, "bench-classes"); err != nil {
		return err
	}
	have := len(sizes()) * 2 * len(w.peers) // about; those of rotation are few
	for _, n := range s.Classes {
		say("growth to %d classes", n)
		if err := w.cluster.makeUnused(ctx, have, n); err != nil {
			return err
		}
		have = max(have, n)
		took := make([]stat.Samples, len(both))
		for range lookback {
			for i, p := range w.peers {
				v, d, err := p.grow(ctx)
				if err := errors.Join(err, v.remove(ctx), sleep(ctx, writeEvery/2)); err != nil {
					return err
				}
				took[i] = append(took[i], d)
			}
		}
		err := w.settle(ctx, func(i int, m memory) { both[i].Classes = append(both[i].Classes, stage{n, took[i], m}) })
		if err != nil {
			return err
		}
	}
	return nil
}

// makeUnused makes classes as large as those of a service with ten secrets.
func (c *cluster) makeUnused(ctx context.Context, from, to int) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	unused := parameters(10, 0)
	unused["objects"] = strings.Repeat("- objectName: password-of-the-database\n  objectType: secret\n  objectVersion: \"\"\n", 10)
	for i := from; i < to; i++ {
		group.Go(func() error { return c.makeClass(ctx, "bench-classes", fmt.Sprintf("unused-%05d", i), unused) })
	}
	return group.Wait()
}

// fit draws lines through the stages.
func (g *growth) fit() {
	var publish, rss, classes []stat.Point
	for _, s := range g.Volumes {
		publish = append(publish, stat.Point{X: float64(s.N), Y: float64(s.Publish.P50())})
		rss = append(rss, stat.Point{X: float64(s.N), Y: float64(s.Memory.RSS)})
	}
	for _, s := range g.Classes {
		classes = append(classes, stat.Point{X: float64(s.N), Y: float64(s.Memory.RSS)})
	}
	g.PublishSlope, g.RSSSlope, g.RSSOfClassSlope = stat.Slope(publish), stat.Slope(rss), stat.Slope(classes)
}
