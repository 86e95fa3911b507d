// Package publish is the one path from a request to files: kubelet's first
// publish, kubelet's republish and the driver's own rotation all go through
// its Service. Each call ends in one of three ways: the volume is published;
// or it is stale and keeps what it held; or it failed and nothing is left.
package publish

import (
	"context"
	"fmt"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/tmpfs"
	"github.com/keymount/keymount/pkg/volume"
)

// A Publisher publishes volumes. It is safe for concurrent use; calls for one
// volume take turns.
type Publisher interface {
	// Publish mounts the volume with its secrets, or brings a published volume
	// up to date when that is due. A *StaleError means that the volume is
	// published and keeps what it held; any other error means that it is not
	// published and nothing is left of the attempt.
	Publish(ctx context.Context, v volume.Volume) (Result, error)
	// Refresh brings a published volume up to date now. It never mounts: the
	// error wraps volume.ErrNotFound where nothing is published. Any other
	// failure is a *StaleError.
	Refresh(ctx context.Context, id volume.ID) (Result, error)
	// Unpublish removes the volume from target. It is idempotent, needs no
	// provider and no class, and does not wait for a provider that hangs.
	Unpublish(ctx context.Context, id volume.ID, target string) error
}

// A Result tells what a call did to a volume.
type Result struct {
	Outcome Outcome
	Record  volume.Record   // the volume as it is now
	Files   []provider.File // what was fetched; nil unless Outcome is Created or Rotated
}

// An Outcome is the case in which a call ended without error.
type Outcome string

const (
	Created   Outcome = "created"   // the volume is new
	Rotated   Outcome = "rotated"   // its content was replaced
	Unchanged Outcome = "unchanged" // the backend had nothing new
	NotDue    Outcome = "not due"   // the backend was not asked
)

// A StaleError says that a refresh failed and the volume serves what it held.
type StaleError struct {
	ID    volume.ID
	Since time.Time // of the first failure in a row
	Err   error
}

// Error names the volume, since when it is stale, and why.
func (e *StaleError) Error() string {
	return fmt.Sprintf("volume %s is stale since %s: %v", e.ID, e.Since.UTC().Format(time.RFC3339), e.Err)
}

// Unwrap returns the cause of the last failure.
func (e *StaleError) Unwrap() error { return e.Err }

// A Mounter provides the memory file system of a volume. It is safe for
// concurrent use on different targets.
type Mounter interface {
	// Mounted returns the identity of the mount at target, which no other
	// mount of this boot has; zero if nothing is mounted there.
	Mounted(target string) (uint64, error)
	// Mount makes sure that target is exactly one memory file system with the
	// options, and returns its identity. It creates the directory, keeps a
	// memory file system that is already there with its files, and removes
	// any other mount. On error neither a new mount nor a new directory is left.
	Mount(target string, opts tmpfs.Options) (uint64, error)
	// Unmount removes every mount at target, lazily as the last resort, and
	// the directory. Gone is success.
	Unmount(target string) error
}
