// Package publish is the one path from a request to files: kubelet's first
// publish, kubelet's republish and the driver's own rotation all go through
// its Service. Each call ends in one of three ways: the volume is published;
// or it is stale and keeps what it held; or it failed and nothing is left.
package publish

import (
	"context"
	"fmt"
	"time"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
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
	// Record is the volume as it is now. Where a publish failed, it has at most
	// the name of the provider.
	Record volume.Record
	// Class and Bundle are what the volume now holds: nil unless the call asked
	// the backend and succeeded. The Bundle of Unchanged may lack files.
	Class  *class.Class
	Bundle *provider.Bundle
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
