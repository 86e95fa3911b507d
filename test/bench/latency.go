package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/keymount/keymount/test/bench/fake"
	"github.com/keymount/keymount/test/bench/stat"
	"github.com/keymount/keymount/test/perf/floor"
)

// The operations, in the order in which a volume goes through them.
const (
	opFirst     = "publish, first of its class"
	opPublish   = "publish"
	opRepublish = "republish, nothing due"
	opDue       = "republish, interval over, unchanged"
	opRotate    = "rotation with change"
	opUnpublish = "unpublish"
)

// writes are how many calls of the API server the upstream driver makes for
// an operation. Its client makes 20 of them each second, and 30 at once.
var writes = map[string]int{opFirst: 1, opPublish: 1, opDue: 2}

const (
	writeEvery = time.Second / 20
	settling   = 25 * time.Millisecond
	atOnce     = 16 // callers
	slow       = 50 * time.Millisecond
)

// sizes are the numbers of files of a volume.
func sizes() []int { return []int{1, 5, 20} }

func className(files int, latency time.Duration) string {
	return fmt.Sprintf("files-%d-latency-%d", files, latency.Milliseconds())
}

// makeLatencyClasses adds the classes, with parameters as classes have them.
func (w *world) makeLatencyClasses(ctx context.Context) error {
	for _, files := range sizes() {
		for _, latency := range []time.Duration{0, slow} {
			if err := w.makeClasses(ctx, className(files, latency), parameters(files, latency)); err != nil {
				return err
			}
		}
	}
	return nil
}

func parameters(files int, latency time.Duration) map[string]string {
	return map[string]string{fake.Files: fmt.Sprint(files), fake.Latency: latency.String(), "objects": "- objectName: secret-00\n  objectType: secret\n"}
}

// loads are all that volumes are measured with.
func loads() (all []load) {
	for _, files := range sizes() {
		all = append(all, load{files: files, callers: 1, first: true})
	}
	for _, latency := range []time.Duration{0, slow} {
		for _, callers := range []int{1, atOnce} {
			for _, files := range sizes() {
				all = append(all, load{files: files, callers: callers, latency: latency})
			}
		}
	}
	return all
}

// measureLatency measures the life of volumes under each load.
func (w *world) measureLatency(ctx context.Context, s settings) (cells []cell, err error) {
	for _, l := range loads() {
		say("publish and unpublish %v", l)
		more, err := w.measureLoad(ctx, l, l.rounds(s))
		if err != nil {
			return nil, fmt.Errorf("%v: %w", l, err)
		}
		cells = append(cells, more...)
	}
	return cells, nil
}

// A load is what volumes are like, and how many of them do the same at once.
type load struct {
	files, callers int
	latency        time.Duration
	first          bool // no other volume of the node has the class
}

func (l load) String() string {
	more := ""
	if l.first {
		more = ", first of its class"
	}
	return fmt.Sprintf("%d files, store %v, %d at once%s", l.files, l.latency, l.callers, more)
}

func (l load) rounds(s settings) int {
	switch {
	case l.callers > 1:
		return s.Batches
	case l.latency > 0:
		return s.SlowRounds
	default:
		return s.Rounds
	}
}

// pause is before each call: what a driver still does after the one before, as
// kubelet does not call again at once, is over then.
func (l load) pause() time.Duration {
	if l.callers > 1 {
		return 4 * settling
	}
	return settling
}

// operations are those of a load. What is due is written by the upstream
// driver more often than its client allows for many callers at once.
func (l load) operations() []string {
	switch {
	case l.first:
		return []string{opFirst, opUnpublish}
	case l.callers > 1:
		return []string{opPublish, opRepublish, opUnpublish}
	}
	return []string{opPublish, opRepublish, opDue, opUnpublish}
}

// warmup rounds are not counted.
const warmup = 1

func (w *world) measureLoad(ctx context.Context, l load, rounds int) ([]cell, error) {
	took := make(map[string]*trio)
	release, err := w.use(ctx, l)
	if err != nil {
		return nil, err
	}
	for _, op := range l.operations() {
		took[op] = &trio{}
	}
	for round := range rounds + warmup {
		if round == warmup {
			for _, op := range l.operations() {
				*took[op] = trio{}
			}
		}
		if err := w.round(ctx, l, round%2 == 1, took); err != nil {
			return nil, err
		}
	}
	var cells []cell
	for _, op := range l.operations() {
		if l.first && op != opFirst {
			continue // the same as of any other
		}
		cells = append(cells, cell{Operation: op, Files: l.files, Latency: l.latency, Callers: l.callers, Took: *took[op]})
	}
	return cells, errors.Join(release(), w.forget(ctx))
}

// use publishes a volume of each driver that stays, so that the class is one
// that the node has already, unless the load wants another.
func (w *world) use(ctx context.Context, l load) (release func() error, err error) {
	var stay []*volume
	for _, p := range w.peers {
		if l.first {
			break
		}
		v := p.newVolume(className(l.files, l.latency), "")
		if err := errors.Join(v.prepare(), v.publish(ctx)); err != nil {
			return nil, err
		}
		stay = append(stay, v)
	}
	return func() (err error) {
		for _, v := range stay {
			err = errors.Join(err, v.remove(ctx))
		}
		return err
	}, nil
}

// round takes volumes of each driver, and of none, through their lives.
func (w *world) round(ctx context.Context, l load, upstreamFirst bool, took map[string]*trio) error {
	began := time.Now()
	order := slices.Clone(w.peers)
	if upstreamFirst {
		slices.Reverse(order)
	}
	for _, p := range order {
		samples, err := p.lives(ctx, l)
		if err != nil {
			return err
		}
		for op, s := range samples {
			into := took[op].of(p)
			*into = append(*into, s...)
		}
	}
	least, err := w.floors(ctx, l)
	for op, s := range least {
		took[op].Floor = append(took[op].Floor, s...)
	}
	if err != nil {
		return err
	}
	budget := 0
	for _, op := range l.operations() {
		budget += writes[op] * l.callers
	}
	return sleep(ctx, time.Duration(budget)*writeEvery-time.Since(began))
}

// lives takes as many volumes as there are callers through one life.
func (p *peer) lives(ctx context.Context, l load) (map[string]stat.Samples, error) {
	volumes := make([]*volume, l.callers)
	for i := range volumes {
		volumes[i] = p.newVolume(className(l.files, l.latency), "")
	}
	samples := make(map[string]stat.Samples)
	for _, op := range l.operations() {
		for _, v := range volumes {
			if err := v.expect(op, l.files); err != nil {
				return nil, err
			}
		}
		if err := errors.Join(sleep(ctx, l.pause()), p.wake(ctx)); err != nil {
			return nil, err
		}
		var err error
		if samples[op], err = together(l.callers, func(i int) error { return volumes[i].do(ctx, op) }); err != nil {
			return nil, fmt.Errorf("%s: %w", op, err)
		}
	}
	for _, v := range volumes {
		if err := os.RemoveAll(v.dir()); err != nil {
			return nil, err
		}
	}
	return samples, nil
}

// expect makes what an operation needs, and checks what the one before did.
func (v *volume) expect(op string, files int) error {
	switch op {
	case opFirst, opPublish:
		return v.prepare()
	case opDue:
		return v.age()
	default:
		return v.published(files)
	}
}

func (v *volume) do(ctx context.Context, op string) error {
	if op == opUnpublish {
		return v.unpublish(ctx)
	}
	return v.publish(ctx)
}

// together calls do by so many callers at once.
func together(callers int, do func(caller int) error) (stat.Samples, error) {
	took, errs := make(stat.Samples, callers), make([]error, callers)
	var start, ended sync.WaitGroup
	start.Add(1)
	for i := range callers {
		ended.Go(func() {
			start.Wait()
			took[i], errs[i] = timed(func() error { return do(i) })
		})
	}
	start.Done()
	ended.Wait()
	return took, errors.Join(errs...)
}

func timed(do func() error) (time.Duration, error) {
	began := time.Now()
	err := do()
	return time.Since(began), err
}

// floors does the same with bare system calls, an empty gRPC call to a process
// that is woken as drivers are, and the store's time.
func (w *world) floors(ctx context.Context, l load) (map[string]stat.Samples, error) {
	target := func(i int) string { return w.path("floor", fmt.Sprint(i)) }
	publish := func(i int) error { return errors.Join(sleep(ctx, l.latency), floor.Publish(target(i), l.files)) }
	steps := map[string]func(i int) error{
		opFirst: publish, opPublish: publish,
		opRepublish: func(int) error { return nil },
		opDue:       func(int) error { return nil },
		opUnpublish: func(i int) error { return floor.Unpublish(target(i)) },
	}
	samples := make(map[string]stat.Samples)
	for _, op := range l.operations() {
		if err := errors.Join(sleep(ctx, l.pause()), w.bare.wake(ctx)); err != nil {
			return nil, err
		}
		var err error
		samples[op], err = together(l.callers, func(i int) error { return errors.Join(w.bare.wake(ctx), steps[op](i)) })
		if err != nil {
			return nil, fmt.Errorf("floor of %s: %w", op, err)
		}
	}
	return samples, nil
}

// forget removes what volumes that are gone have left in the cluster.
func (w *world) forget(ctx context.Context) error {
	for _, p := range w.peers {
		if err := w.cluster.forget(ctx, p.namespace); err != nil {
			return err
		}
	}
	return nil
}
