package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/keymount/keymount/pkg/plugin"
)

// probeTimeout bounds the question to all providers together.
const probeTimeout = 2 * time.Second

// probeCommand asks the providers of another process whether they answer, for
// probes of a container that has no port and no shell.
func probeCommand(builtin []string) *cobra.Command {
	var names []string
	var socketDir string
	cmd := &cobra.Command{
		Use:   "probe",
		Short: "Ask running providers whether they answer; exit with 1 if one does not",
		Args:  cobra.NoArgs,
	}
	cmd.Flags().StringSliceVar(&names, "providers", builtin, "`providers` to ask, separated by commas")
	cmd.Flags().StringVar(&socketDir, "socket-dir", defaultSocketDir, "`folder` of their sockets")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), probeTimeout)
		defer cancel()
		return probe(ctx, socketDir, names)
	}
	return cmd
}

// probe asks all providers at the same time, and returns an error for each that
// does not answer before ctx ends.
func probe(ctx context.Context, socketDir string, names []string) error {
	if len(names) == 0 {
		return errors.New("--providers is empty: name those to ask")
	}
	sockets := plugin.NewDir([]string{socketDir}, nil)
	silent := make([]error, len(names))
	var asking sync.WaitGroup
	for i, name := range names {
		asking.Go(func() { silent[i] = sockets.Check(ctx, name) })
	}
	asking.Wait()
	return errors.Join(errors.Join(silent...), sockets.Close())
}
