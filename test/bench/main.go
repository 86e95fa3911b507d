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
	if code, done, err := userns.Reexec(); done {
		os.Exit(code)
	} else if err != nil {
		exit(fmt.Errorf("measuring mounts needs a mount namespace: %w", err))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	exit(run(ctx))
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

func run(ctx context.Context) (err error) {
	var (
		repository = flag.String("repository", "../..", "`folder` of the product")
		out        = flag.String("o", "../../docs", "`folder` of the page and its plots")
		save       = flag.String("save", "", "`file` into which to write what was measured, for -from")
		from       = flag.String("from", "", "`file` of -save: write the page of then, and measure nothing")
		profiles   = flag.String("profile", "", "`folder` into which to write CPU profiles of our driver, and measure nothing")
		short      = flag.Bool("quick", false, "measure less, in five minutes")
	)
	flag.Parse()
	if *from != "" {
		r, err := read(*from)
		if err != nil {
			return err
		}
		return r.write(*out)
	}
	s := full()
	if *short {
		s = quick()
	}
	say("build")
	programs, err := build(ctx, *repository)
	if err != nil {
		return err
	}
	w, err := newWorld(ctx, *repository, programs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if *profiles != "" {
		return w.profile(ctx, *profiles)
	}
	r, err := w.measure(ctx, s)
	if err != nil {
		return err
	}
	return errors.Join(r.save(*save), r.write(*out))
}
