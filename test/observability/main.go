// Command observability draws the dashboard of deploy/dashboards as it looks
// with real drivers under real traffic: Prometheus' own engine evaluates the
// queries of each panel. Its tests check that dashboard and alerts speak of
// what drivers expose, and run the tests of the alerts.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/tmpfs/userns"
	"github.com/keymount/keymount/test/observability/traffic"
)

func main() {
	code, done, err := userns.Reexec()
	if done {
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err == nil {
		err = run(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "observability:", err)
		os.Exit(1)
	}
}

// nodes are those of the picture.
func nodes() []string { return []string{"node-1", "node-2", "node-3"} }

func run(ctx context.Context) error {
	var (
		repository = flag.String("repository", "../..", "`folder` of the product")
		out        = flag.String("o", "dashboard.svg", "`file` of the picture")
		length     = flag.Duration("for", 2*time.Minute, "`duration` of the traffic")
		every      = flag.Duration("every", 500*time.Millisecond, "`duration` between two scrapes")
		verbose    = flag.Bool("v", false, "show what the drivers log")
	)
	flag.Parse()
	config := traffic.Config{Repository: *repository, Nodes: nodes()}
	if *verbose {
		config.Log = os.Stderr
	} else {
		silence()
	}
	d, err := readDashboard(filepath.Join(*repository, dashboardFile))
	if err != nil {
		return err
	}
	recorded, err := record(ctx, config, *length, *every)
	if err != nil {
		return err
	}
	picture, err := draw(ctx, d, recorded, explain(len(nodes()), *length, *every))
	if err != nil {
		return err
	}
	return os.WriteFile(*out, picture, 0o644)
}

// silence drops what the providers log, which run in this process.
func silence() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) }

const dashboardFile = "deploy/dashboards/keymount.json"
