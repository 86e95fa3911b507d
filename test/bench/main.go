// Command bench measures the driver and the upstream one side by side: both
// run as they are released, as processes on this machine, with the same API
// server, the same provider and the same calls, in turn. It writes a page of
// documentation and its plots, of which nothing is typed by hand.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/keymount/keymount/pkg/tmpfs/userns"
	"github.com/keymount/keymount/test/bench/fake"
	"github.com/keymount/keymount/test/perf/floor"
)

func main() {
	if len(os.Args) > 2 {
		switch os.Args[1] {
		case floor.Command:
			exit(floor.Serve(os.Args[2]))
		case fake.Command:
			exit(fake.Serve(os.Args[2], os.Args[3], floor.FileSize))
		}
	}
	o := parseOptions()
	if o.e2e {
		if err := mayMeasurePods(); err != nil {
			exit(err)
		}
	}
	if code, done, err := userns.Reexec(); done {
		os.Exit(code)
	} else if err != nil {
		exit(fmt.Errorf("measuring mounts needs a mount namespace: %w", err))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(o.run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// began is when this program did, for what it says.
var began = time.Now()

// say tells whoever waits what is going on.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "bench: %4.0f s  %s\n", time.Since(began).Seconds(), fmt.Sprintf(format, args...))
}

// options are the flags.
type options struct {
	repository, out, save, from, profiles string
	quick, e2e                            bool
}

func parseOptions() *options {
	o := new(options)
	flag.StringVar(&o.repository, "repository", "../..", "`folder` of the product")
	flag.StringVar(&o.out, "o", "../../docs", "`folder` of the page and its plots")
	flag.StringVar(&o.save, "save", "", "`file` into which to write what was measured, for -from")
	flag.StringVar(&o.from, "from", "", "`file` of -save: write the page of then, and measure nothing")
	flag.StringVar(&o.profiles, "profile", "", "`folder` into which to write CPU profiles of our driver, and measure nothing")
	flag.BoolVar(&o.quick, "quick", false, "measure less, in five minutes")
	flag.BoolVar(&o.e2e, "e2e", false, "also measure pods in the cluster of the end-to-end tests, as root")
	flag.Parse()
	return o
}

func (o *options) settings() settings {
	if o.quick {
		return quick()
	}
	return full()
}

func (o *options) run(ctx context.Context) error {
	if o.from != "" {
		r, err := read(o.from)
		if err != nil {
			return err
		}
		return r.write(o.out)
	}
	r, err := o.measure(ctx)
	if err != nil || r == nil {
		return err
	}
	if o.e2e {
		// What was measured before is worth a page, whatever comes of this.
		start := time.Now()
		r.Pods, err = measurePods(ctx, o.repository, r.Settings)
		r.Took += time.Since(start)
	}
	return errors.Join(err, r.save(o.save), r.write(o.out))
}

// measure measures both drivers as processes, or writes profiles and returns
// no results. Nothing runs afterwards.
func (o *options) measure(ctx context.Context) (r *results, err error) {
	say("build")
	programs, err := build(ctx, o.repository)
	if err != nil {
		return nil, err
	}
	w, err := newWorld(ctx, o.repository, programs)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if o.profiles != "" {
		return nil, w.writeProfiles(ctx, o.profiles)
	}
	return w.measure(ctx, o.settings())
}
