package publish

import (
	"context"
	"errors"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/volume"
)

// Reconcile brings the due times of volumes that an earlier driver published
// in line with this one's schedule, and with classes that changed meanwhile.
// It fetches nothing. Call it once, before the first refresh.
func (s *Service) Reconcile(ctx context.Context) error {
	var errs []error
	for _, rec := range s.Volumes.List() {
		if due := s.reconciled(ctx, rec); !due.Equal(rec.Due) {
			rec.Due = due
			errs = append(errs, s.Volumes.Put(rec))
		}
	}
	return errors.Join(errs...)
}

// reconciled returns when a volume is due under this driver.
func (s *Service) reconciled(ctx context.Context, rec volume.Record) time.Time {
	if s.Schedule == nil {
		return time.Time{}
	}
	c, err := s.Classes.Class(ctx, rec.Class)
	if err != nil {
		return rec.Due // the next refresh says what is wrong with it
	}
	interval, err := c.Rotation(s.Schedule.Interval)
	if err != nil || c.Revision != rec.Revision {
		return time.Now()
	}
	src := source{class: c}
	next := s.Schedule.refreshed(rec.Refreshed, interval, src.group(rec), &provider.Bundle{Lease: rec.Held.Lease})
	if rec.Due.IsZero() || !next.IsZero() && next.Before(rec.Due) {
		return next
	}
	return rec.Due
}
