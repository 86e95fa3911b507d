// Command keymount-driver is the CSI node plugin that mounts secrets as
// volumes. It runs on every node, privileged because kubelet demands that of
// whoever mounts into pods; it talks to providers over unix sockets only, and
// contains no client of any secret store.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/spf13/pflag"
	"k8s.io/klog/v2"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/keymount/keymount/pkg/driver"
	"github.com/keymount/keymount/pkg/sandbox"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/pkg/trace"
)

// version is set by the linker.
var version = "v0.0.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run returns the exit code: 0 after a clean stop, 1 where the driver fails,
// 2 for bad flags.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	config := driver.Config{Version: version}
	own := flag.NewFlagSet("keymount-driver", flag.ContinueOnError)
	config.AddFlags(own)
	showVersion := own.Bool("version", false, "print the version and exit")
	confined := own.Bool("sandbox", true, "give up for good the capabilities and system calls that the driver does not need")
	logging := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(logging)

	all := flag.NewFlagSet("keymount-driver", flag.ContinueOnError)
	var problems []error
	for _, set := range []*flag.FlagSet{own, logging, superseded()} {
		set.VisitAll(func(f *flag.Flag) { all.Var(patient{f.Value, f.Name, &problems}, f.Name, f.Usage) })
	}
	all.SetOutput(io.Discard)
	switch err := all.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		usage(stdout, own, logging)
		return 0
	case err != nil || all.NArg() > 0:
		if err == nil {
			err = fmt.Errorf("unexpected argument %q", all.Arg(0))
		}
		fmt.Fprintf(stderr, "keymount-driver: %v; see --help\n", err)
		return 2
	case *showVersion:
		fmt.Fprintf(stdout, "keymount-driver %s %s\n", version, runtime.Version())
		return 0
	}
	if err := errors.Join(errors.Join(problems...), config.Validate()); err != nil {
		fmt.Fprintf(stderr, "keymount-driver: bad flags:\n%v\n", err)
		return 2
	}
	defer klog.Flush()
	all.Visit(func(f *flag.Flag) {
		if superseded().Lookup(f.Name) != nil {
			klog.InfoS("Flag has no effect in this driver", "flag", f.Name)
		}
	})
	if err := drive(ctx, config, *confined); err != nil {
		klog.ErrorS(err, "Driver failed")
		return 1
	}
	return 0
}

func drive(ctx context.Context, config driver.Config, confined bool) error {
	if err := enter(confined); err != nil {
		return err
	}
	stop, err := trace.Start(ctx, trace.Process{Name: "keymount-driver", Version: version, Environment: os.Getenv})
	if err != nil {
		return err
	}
	defer stop()
	go secret.Collect(ctx, secret.Pause)
	d, err := driver.New(config, nil)
	if err != nil {
		return err
	}
	klog.InfoS("Driver starts", "version", version, "node", config.NodeID, "endpoint", config.Endpoint)
	defer klog.InfoS("Driver stopped; volumes stay mounted")
	return d.Run(ctx)
}

// capabilities are what mounting for pods takes: mounts; files of any owner and
// mode, in folders and behind sockets of any; and to see that no process has a
// file open before it is overwritten.
var capabilities = []cap.Value{cap.SYS_ADMIN, cap.CHOWN, cap.FOWNER, cap.DAC_OVERRIDE, cap.LEASE}

// enter gives up what the driver does not need, and says what it runs with.
// There are no rules for files: the kernel forbids mounting to who has any.
func enter(confined bool) error {
	policy := &sandbox.Policy{Capabilities: capabilities, Calls: sandbox.Driver}
	if !confined {
		policy = nil
	}
	state, err := sandbox.Enter(policy)
	if err == nil {
		klog.InfoS("Process runs with", state.Log()...)
	}
	return err
}

// A patient value notes that a text is malformed, so that all problems can be
// told at once.
type patient struct {
	flag.Value
	name     string
	problems *[]error
}

// Set implements flag.Value.
func (p patient) Set(text string) error {
	before := p.Value.String()
	if err := p.Value.Set(text); err != nil {
		_ = p.Value.Set(before) // what was valid is not the next problem
		*p.problems = append(*p.problems, fmt.Errorf("--%s is %q: %w; see --help", p.name, text, err))
	}
	return nil
}

// IsBoolFlag lets a switch stand alone.
func (p patient) IsBoolFlag() bool {
	b, ok := p.Value.(interface{ IsBoolFlag() bool })
	return ok && b.IsBoolFlag()
}

// superseded returns the flags of the upstream driver that manifests may set
// and that mean nothing here.
func superseded() *flag.FlagSet {
	fs := flag.NewFlagSet("", flag.ContinueOnError)
	for _, name := range []string{"log-format-json", "enable-pprof", "provider-health-check"} {
		fs.Bool(name, false, "accepted for compatibility")
	}
	for _, name := range []string{"metrics-backend", "pprof-port", "provider-health-check-interval"} {
		fs.String(name, "", "accepted for compatibility")
	}
	return fs
}

func usage(w io.Writer, own, logging *flag.FlagSet) {
	fmt.Fprintln(w, "keymount-driver is the CSI node plugin that mounts secrets as volumes.\n\nFlags:")
	fmt.Fprint(w, asGNU(own))
	fmt.Fprintln(w, "\nLogging flags:")
	fmt.Fprint(w, asGNU(logging))
}

// asGNU formats flags with two dashes; one dash is accepted as well.
func asGNU(fs *flag.FlagSet) string {
	gnu := pflag.NewFlagSet("", pflag.ContinueOnError)
	gnu.AddGoFlagSet(fs)
	return gnu.FlagUsages()
}
