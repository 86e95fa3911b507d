package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/keymount/keymount/test/bench/stat"
	"github.com/keymount/keymount/test/perf/floor"
)

// rotated is the number of volumes that change at once.
const rotated = 10

// rotation is the shortest interval that our driver has; it counts by itself.
// The upstream driver looks at its interval when kubelet calls.
const rotation = time.Second

func rotationClass(files int) string { return fmt.Sprintf("rotates-%d", files) }

// measureRotation measures how long it takes from the moment at which the
// provider is asked until the new files are swapped in.
func (w *world) measureRotation(ctx context.Context, s settings) (cells []cell, err error) {
	for _, files := range sizes() {
		say("rotation of %d files, %d turns of %d volumes", files, s.Turns, rotated)
		class := parameters(files, 0)
		class["rotationInterval"] = rotation.String()
		if err := w.makeClasses(ctx, rotationClass(files), class); err != nil {
			return nil, err
		}
		var took trio
		for range s.Turns {
			for _, p := range w.peers {
				samples, err := p.turn(ctx, files)
				if err != nil {
					return nil, fmt.Errorf("rotation of %d files: %w", files, err)
				}
				into := took.of(p)
				*into = append(*into, samples...)
			}
			least, err := w.rotationFloors(ctx, files)
			if err != nil {
				return nil, err
			}
			took.Floor = append(took.Floor, least...)
		}
		cells = append(cells, cell{Operation: opRotate, Files: files, Callers: 1, Took: took})
	}
	return cells, w.forget(ctx)
}

// turn publishes volumes, changes their secrets, and sees them change.
func (p *peer) turn(ctx context.Context, files int) (samples stat.Samples, err error) {
	var watches []*watch
	for range rotated {
		v := p.newVolume(rotationClass(files), "")
		if err := errors.Join(v.prepare(), v.publish(ctx), v.published(files)); err != nil {
			return nil, err
		}
		watch, err := newWatch(v)
		if err != nil {
			return nil, err
		}
		watches = append(watches, watch)
		if err := sleep(ctx, 3*writeEvery); err != nil { // so that they are not due at once
			return nil, err
		}
	}
	if err := p.world.control.Turn(ctx); err != nil {
		return nil, err
	}
	for _, w := range watches {
		if err := p.refresh(ctx, w.volume); err != nil {
			return nil, err
		}
	}
	swapped := make([]time.Time, len(watches))
	for i, w := range watches {
		if swapped[i], err = w.wait(); err != nil {
			return nil, err
		}
	}
	stats, err := p.world.control.Stats(ctx)
	if err != nil {
		return nil, err
	}
	for i, w := range watches {
		ask := stats.Asked[w.volume.pod]
		if ask.Generation != stats.Generation {
			return nil, fmt.Errorf("%s: %s changed, and nobody asked the provider", p.name, w.volume.pod)
		}
		samples = append(samples, swapped[i].Sub(ask.At))
		err = errors.Join(err, w.volume.remove(ctx))
	}
	return samples, err
}

// refresh makes the upstream driver refresh a volume. Ours does so by itself.
func (p *peer) refresh(ctx context.Context, v *volume) error {
	if p.name != upstreamName {
		return nil
	}
	return errors.Join(v.age(), p.wake(ctx), v.publish(ctx))
}

// A watch sees when the files of a volume are swapped.
type watch struct {
	volume *volume
	fd     int
	seen   chan time.Time // one, or none if it was closed
}

func newWatch(v *volume) (*watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, v.target(), unix.IN_MOVED_TO|unix.IN_UNMOUNT); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	w := &watch{volume: v, fd: fd, seen: make(chan time.Time, 1)}
	go w.read()
	return w, nil
}

// read reads events until ..data is the name of something else, or the volume is gone.
func (w *watch) read() {
	defer close(w.seen)
	buf := make([]byte, 4096)
	for {
		n, err := unix.Read(w.fd, buf)
		at := time.Now()
		if err != nil || n < unix.SizeofInotifyEvent {
			return
		}
		event := (*unix.InotifyEvent)(unsafe.Pointer(&buf[0]))
		switch {
		case event.Mask&unix.IN_UNMOUNT != 0:
			return
		case bytes.Contains(buf[:n], []byte("..data\x00")):
			w.seen <- at
			return
		}
	}
}

// wait returns when the files were swapped, and ends the watch.
func (w *watch) wait() (time.Time, error) {
	select {
	case at, ok := <-w.seen:
		if !ok {
			return at, fmt.Errorf("%s: the volume of %s cannot be watched", w.volume.peer.name, w.volume.pod)
		}
		return at, unix.Close(w.fd)
	case <-time.After(patience):
		return time.Time{}, fmt.Errorf("%s: the volume of %s does not change", w.volume.peer.name, w.volume.pod)
	}
}

// rotationFloors does the same with bare system calls and an empty gRPC call.
func (w *world) rotationFloors(ctx context.Context, files int) (samples stat.Samples, err error) {
	target := w.path("floor", "rotates")
	for range rotated {
		if err := errors.Join(floor.Publish(target, files), w.bare.wake(ctx)); err != nil {
			return nil, err
		}
		took, err := timed(func() error { return errors.Join(w.bare.wake(ctx), floor.Rotate(target, files)) })
		if err := errors.Join(err, floor.Unpublish(target), os.RemoveAll(target)); err != nil {
			return nil, err
		}
		samples = append(samples, took)
	}
	return samples, nil
}
