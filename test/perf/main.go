// Command perf measures the driver against the floor that the kernel and gRPC
// set on the same machine in the same run, and prints the ratios as a page of
// documentation. It starts the real driver process, calls it as kubelet does,
// and answers it as a provider on a socket does.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/keymount/keymount/pkg/tmpfs/userns"
	"github.com/keymount/keymount/test/perf/floor"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == floor.Command {
		exit(floor.Serve(os.Args[2]))
	}
	if code, done, err := userns.Reexec(); done {
		os.Exit(code)
	} else if err != nil {
		exit(fmt.Errorf("measuring mounts needs a mount namespace: %w", err))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	exit(run(ctx))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "perf:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run(ctx context.Context) (err error) {
	var (
		rounds  = flag.Int("rounds", 300, "measurements of each operation")
		volumes = flag.Int("volumes", 1000, "volumes that are published at the same time")
		out     = flag.String("o", "", "write the page to this file rather than to standard output")
	)
	flag.Parse()
	b, err := newBench(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	page := &page{rounds: *rounds, volumes: *volumes}
	for _, files := range sizes {
		row, err := b.measure(ctx, files, *rounds)
		if err != nil {
			return fmt.Errorf("%d files: %w", files, err)
		}
		page.rows = append(page.rows, row...)
	}
	if page.many, err = b.publishMany(ctx, *volumes); err != nil {
		return fmt.Errorf("%d volumes: %w", *volumes, err)
	}
	if page.heap, err = heapPerVolume(ctx, b.dir, *volumes); err != nil {
		return fmt.Errorf("heap: %w", err)
	}
	if *out == "" {
		return page.write(os.Stdout)
	}
	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	return errors.Join(page.write(f), f.Close())
}
