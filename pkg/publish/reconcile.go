package publish

import (
	"context"
	"errors"
	"time"

	"github.com/keymount/keymount/pkg/atomicdir"
	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/volume"
)

// Reconcile takes over the volumes that an earlier driver published: it
// removes what that one, if it was killed, left half written in them, and
// brings their due times in line with this one's schedule and with classes
// that changed meanwhile. It goes on to give back the leases that an earlier
// driver did not. It fetches nothing. Call it once, before the first refresh.
func (s *Service) Reconcile(ctx context.Context) error {
	s.releases.work()
	var errs []error
	classes := make(answers)
	for _, rec := range s.Volumes.List() {
		errs = append(errs, s.takeOver(ctx, rec.ID, classes))
	}
	return errors.Join(errs...)
}

// answers of a class.Source, which is asked for each class once: it may be
// away, and take long to say so.
type answers map[class.Name]answer

type answer struct {
	class *class.Class
	err   error
}

func (a answers) class(ctx context.Context, from class.Source, name class.Name) (*class.Class, error) {
	known, ok := a[name]
	if !ok {
		known.class, known.err = from.Class(ctx, name)
		a[name] = known
	}
	return known.class, known.err
}

func (s *Service) takeOver(ctx context.Context, id volume.ID, classes answers) error {
	ctx, done, err := s.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	rec, ok := s.Volumes.Get(id)
	if !ok {
		return nil
	}
	dir, err := s.Mounts.Open(rec.Target, rec.Mount)
	if err != nil {
		return nil // it is not mounted any more, which the next call about it finds
	}
	err = errors.Join(atomicdir.Repair(dir), dir.Close())
	if due := s.reconciled(ctx, rec, classes); !due.Equal(rec.Due) {
		rec.Due = due
		err = errors.Join(err, s.Volumes.Put(rec))
	}
	return err
}

// reconciled returns when a volume is due under this driver.
func (s *Service) reconciled(ctx context.Context, rec volume.Record, classes answers) time.Time {
	if s.Schedule == nil {
		return time.Time{}
	}
	c, err := classes.class(ctx, s.Classes, rec.Class)
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
