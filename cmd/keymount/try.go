package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/tmpfs"
	"github.com/keymount/keymount/pkg/tmpfs/userns"
)

const tryLong = `try publishes the volumes of an example on this machine: no cluster, no root.

DIR holds SecretProviderClass manifests of the provider "file", and a folder
"secrets" with one subfolder for each namespace. try encrypts the secrets into
a store of its own, starts the provider and the driver on sockets, and calls
the driver as kubelet would: publish, a change in the store, unpublish. It
shows names, sizes, modes and versions, and never the content of a secret.

An ordinary user gets a memory file system in a user namespace. Where the
system forbids that, try says so and uses a directory.`

func tryCommand() *cobra.Command {
	var watch bool
	cmd := &cobra.Command{
		Use:   "try [DIR]",
		Short: "Publish, rotate and unpublish an example on this machine",
		Long:  tryLong,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "examples/quickstart"
			if len(args) == 1 {
				dir = args[0]
			}
			return try(cmd.Context(), cmd.OutOrStdout(), dir, watch)
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "keep the volumes until interrupted, and follow edits of the files below DIR/secrets")
	return cmd
}

// try runs in a process that may mount, if the system has one for it.
func try(ctx context.Context, out io.Writer, dir string, watch bool) error {
	mounts, kind, err := mounter()
	if err != nil {
		return err
	}
	klog.SetLogger(logr.Discard()) // the report says what matters
	s, err := newScene(dir, mounts)
	if err != nil {
		return err
	}
	r := &report{out: out}
	return errors.Join(play(ctx, r, s, kind, watch), s.close())
}

// mounter returns what mounts here, and what to call it. It does not return in
// the first of two processes.
func mounter() (m publish.Mounter, kind string, err error) {
	code, done, err := userns.Reexec()
	switch {
	case done:
		os.Exit(code)
	case errors.Is(err, userns.ErrForbidden):
		return &tmpfs.Plain{}, fmt.Sprintf("a plain DIRECTORY, not a memory file system: %v", err), nil
	case err != nil:
		return nil, "", err
	}
	real, err := tmpfs.New()
	if err != nil {
		return nil, "", err
	}
	kind = "a memory file system that is never swapped to disk"
	if !real.NoSwap() {
		kind = "a memory file system; this kernel cannot keep it from being swapped here"
	}
	return real, kind, nil
}

// play is the whole story, one step a paragraph.
func play(ctx context.Context, r *report, s *scene, kind string, watch bool) error {
	encrypted, err := s.encryptStore()
	if err != nil {
		return err
	}
	r.step("store", "%d files of %s, encrypted with a new age key, in %s", encrypted, s.secrets, s.path("store"))
	if err := s.startProvider(ctx); err != nil {
		return err
	}
	r.step("provider", "file, on %s", s.path("providers", "file.sock"))
	took, err := s.startDriver(ctx)
	if err != nil {
		return err
	}
	r.step("driver", "CSI node server on %s, ready after %s", s.path("csi.sock"), short(took))
	for _, v := range s.volumes {
		took, err := s.publish(ctx, v)
		if err != nil {
			return fmt.Errorf("publish class %s: %w", v.class.Name, err)
		}
		r.step("publish", "class %s for pod %s, as kubelet does: %s, in %s", v.class.Name, podName, kind, short(took))
		if err := r.volume(s, v); err != nil {
			return err
		}
	}
	if watch {
		if err := follow(ctx, r, s); err != nil {
			return err
		}
	} else if err := rotate(ctx, r, s); err != nil {
		return err
	}
	return clean(context.WithoutCancel(ctx), r, s)
}

// rotate changes one secret of each volume, and waits until the pod sees it.
func rotate(ctx context.Context, r *report, s *scene) error {
	for _, v := range s.volumes {
		name, took, err := s.change(ctx, v)
		if err != nil {
			return fmt.Errorf("rotate class %s: %w", v.class.Name, err)
		}
		r.step("rotate", "changed %s in the store; the pod sees the new content after %s", name, short(took))
		if err := r.volume(s, v); err != nil {
			return err
		}
	}
	return nil
}

// clean unpublishes every volume, stops everything, and looks for leftovers.
func clean(ctx context.Context, r *report, s *scene) error {
	for _, v := range s.volumes {
		took, err := s.unpublish(ctx, v)
		if err != nil {
			return fmt.Errorf("unpublish class %s: %w", v.class.Name, err)
		}
		r.step("unpublish", "class %s, in %s", v.class.Name, short(took))
	}
	left, err := s.leftovers()
	switch {
	case err != nil:
		return err
	case len(left) > 0:
		return fmt.Errorf("unpublish left something: %q", left)
	}
	r.step("nothing left", "no mount, no directory, no record")
	return nil
}

func short(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }
