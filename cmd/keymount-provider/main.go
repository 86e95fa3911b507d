// Command keymount-provider serves the built-in providers, each on a socket of
// the v1alpha1 provider protocol. It needs no privileges: it opens the store's
// connections or files, and the driver that calls it does the mounting. It
// also works under the upstream Secrets Store CSI driver.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/sandbox"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/pkg/serve"
	"github.com/keymount/keymount/pkg/trace"
	"github.com/keymount/keymount/providers"
)

// version is set by the linker.
var version = "v0.0.0-dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "keymount-provider: %v\n", err)
		os.Exit(1)
	}
}

// defaultSocketDir is where the driver looks for sockets.
const defaultSocketDir = "/var/run/secrets-store-csi-providers"

// settings are the flags that are not a provider's own.
type settings struct {
	names     []string
	socketDir string
	uids      []uint
	readable  []string
	confined  bool
	profiles  string
	logs      []string // folders that klog may write to
}

func command() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:           "keymount-provider",
		Short:         "Serve the built-in providers on sockets for the driver",
		Args:          cobra.NoArgs,
		Version:       version + " " + runtime.Version(),
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	cmd.SetVersionTemplate("{{.Name}} {{.Version}}\n")
	flags := cmd.Flags()
	flags.SortFlags = false
	set := providers.AddFlags(flags)
	set.Environment = os.Getenv
	flags.StringSliceVar(&s.names, "providers", set.Names(), "built-in `providers` to serve, separated by commas")
	flags.StringVar(&s.socketDir, "socket-dir", defaultSocketDir, "`folder` of the sockets, one NAME.sock for each provider; the driver's --provider-volume")
	flags.UintSliceVar(&s.uids, "allowed-uids", nil, "`users` whose processes may connect, separated by commas; none means whoever the socket's permissions (0600) let in")
	flags.StringSliceVar(&s.readable, "readable-paths", nil, "`files` and folders that providers may read besides those that flags name, separated by commas: those that classes name")
	flags.BoolVar(&s.confined, "sandbox", true, "give up for good the files, capabilities and system calls that the providers do not need")
	flags.StringVar(&s.profiles, "pprof-socket", "", "`path` of a unix socket that serves profiles")
	logging := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(logging)
	flags.AddGoFlagSet(logging)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		defer klog.Flush()
		s.logs = logFolders(logging)
		return run(cmd.Context(), s, set)
	}
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.AddCommand(probeCommand(set.Names()))
	return cmd
}

// run serves every provider until ctx ends or one of them fails.
func run(ctx context.Context, s settings, set *providers.Set) error {
	if err := sandbox.NoDumps(); err != nil { // before keys are read
		return err
	}
	opts, err := s.serveOptions()
	if err != nil {
		return err
	}
	stop, err := trace.Start(ctx, trace.Process{Name: "keymount-provider", Version: version, Environment: os.Getenv})
	if err != nil {
		return err
	}
	defer stop()
	sockets, err := s.open(set)
	if err != nil {
		return err
	}
	if len(sockets) == 0 {
		return fmt.Errorf("--providers is empty: name some of %s", strings.Join(set.Names(), ", "))
	}
	profiles, err := s.listenForProfiles()
	if err == nil {
		err = s.enter(set)
	}
	if err != nil {
		return errors.Join(err, closeAll(sockets))
	}
	go secret.Collect(ctx, secret.Pause)
	group, ctx := errgroup.WithContext(ctx)
	if profiles != nil {
		group.Go(func() error { return serve.Profiles(ctx, profiles, time.Second) })
	}
	for _, opened := range sockets {
		klog.InfoS("Provider serves", "socket", opened.listener.Addr(), "version", version)
		group.Go(func() error {
			err := plugin.Serve(ctx, opened.listener, opened.provider, opts)
			return errors.Join(err, opened.close())
		})
	}
	return group.Wait()
}

// serveOptions says who may call.
func (s settings) serveOptions() (*plugin.ServeOptions, error) {
	opts := &plugin.ServeOptions{RuntimeName: "keymount-provider", Version: strings.TrimPrefix(version, "v")}
	for _, uid := range s.uids {
		if uid > math.MaxUint32 {
			return nil, fmt.Errorf("--allowed-uids: %d is not a user ID", uid)
		}
		opts.AllowedUIDs = append(opts.AllowedUIDs, uint32(uid))
	}
	if len(opts.AllowedUIDs) > 0 {
		opts.AllowedUIDs = append(opts.AllowedUIDs, uint32(os.Getuid())) // of the probe
	}
	return opts, nil
}

// listenForProfiles returns nil if nobody may have any.
func (s settings) listenForProfiles() (net.Listener, error) {
	if s.profiles == "" {
		return nil, nil
	}
	lis, err := serve.Listen("unix:"+s.profiles, nil)
	if err != nil {
		return nil, fmt.Errorf("--pprof-socket: %w", err)
	}
	return lis, nil
}

// A socket is a provider and where it is served.
type socket struct {
	name     string
	provider provider.Provider
	listener net.Listener // nil until it is listened on
}

// close lets the provider go, if it holds anything.
func (s socket) close() error {
	if closer, ok := s.provider.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

func closeAll(sockets []socket) error {
	var errs []error
	for _, opened := range sockets {
		if opened.listener != nil {
			errs = append(errs, opened.listener.Close())
		}
		errs = append(errs, opened.close())
	}
	return errors.Join(errs...)
}

// open makes all providers, and then a socket for each: what one of them cannot
// be made of leaves no trace.
func (s settings) open(set *providers.Set) (sockets []socket, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll(sockets))
		}
	}()
	for _, name := range slices.Compact(slices.Sorted(slices.Values(s.names))) {
		p, err := set.New(name)
		if err != nil {
			return sockets, err
		}
		sockets = append(sockets, socket{name: name, provider: p})
	}
	for i := range sockets {
		made := &sockets[i]
		made.listener, err = serve.Listen("unix:"+filepath.Join(s.socketDir, made.name+".sock"), &serve.ListenOptions{Dir: 0o700})
		if err != nil {
			return sockets, fmt.Errorf("provider %q: %w", made.name, err)
		}
	}
	return sockets, nil
}
