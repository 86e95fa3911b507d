package publish

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keymount/keymount/pkg/atomicdir"
	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/tmpfs"
	"github.com/keymount/keymount/pkg/volume"
)

// ErrConflict: the volume is published, but not as the call describes it.
var ErrConflict = errors.New("the volume is published differently")

// A Config says what a Service works with.
type Config struct {
	Classes   class.Source
	Providers provider.Lookup
	Mounts    Mounter
	Volumes   volume.Store
	// Releases keeps the leases that are to be given back: a store of its own,
	// whose IDs name leases. Nil: they are kept in memory, until the process ends.
	Releases volume.Store
	// Lost is told of a lease that could not be given back, once, and why: the
	// provider refuses, or did not answer until the lease was over. The Record
	// has the lease, and what is known of whose it was. Nil: nobody is told.
	Lost func(volume.Record, error)

	MaxVolumes int // more are refused; zero: any number

	Schedule *Schedule     // nil: volumes are never refreshed
	Limits   tmpfs.Options // of each volume; Group comes from the volume
	// NeedsFiles says that the files of a volume are wanted in Result.Bundle at
	// its next refresh, even if they have not changed. Nil: never. What is
	// leased is not asked for: it would be issued anew.
	NeedsFiles func(volume.ID, *class.Class) bool
	// AttributesWin lets the pod's volume attributes override and extend the
	// parameters of the class, as drivers before this one do.
	AttributesWin bool
}

// A Service is the Publisher that does the work.
type Service struct {
	Config
	started  time.Time
	turns    turns
	bearers  bearers
	releases *releases
	shredder shredder
}

// New returns a Service. Its life counts from here: refreshes of volumes that
// an earlier driver published wait a while for kubelet to bring their tokens.
func New(config Config) *Service {
	if config.Releases == nil {
		config.Releases = &volume.Memory{}
	}
	s := &Service{Config: config, started: time.Now()}
	s.releases = newReleases(&s.Config)
	return s
}

// Close waits for releases of leases that are in progress; they are bounded.
// Those that wait stay in Config.Releases. No call may be in progress, and
// none but GiveBack may follow.
func (s *Service) Close() {
	s.shredder.close()
	s.releases.close()
}

// GiveBack gives back a lease of the provider of that name that was issued for
// a volume and did not reach it. It does not wait for the provider.
func (s *Service) GiveBack(name string, lease provider.Lease) error {
	id, err := s.releases.note(volume.Record{}, name, lease, time.Now())
	s.releases.free(id)
	return err
}

// Publish implements Publisher.
func (s *Service) Publish(ctx context.Context, v volume.Volume) (Result, error) {
	ctx, done, err := s.turns.take(ctx, v.ID)
	if err != nil {
		return Result{}, err
	}
	defer done()
	rec, published, err := s.recall(v)
	switch {
	case err != nil:
		return Result{}, err
	case !published:
		return s.create(ctx, v)
	}
	if awaited := s.bearers.bring(v); !awaited && !due(rec) {
		return Result{Outcome: NotDue, Record: rec}, nil
	}
	return s.refresh(ctx, rec)
}

// Refresh implements Publisher.
func (s *Service) Refresh(ctx context.Context, id volume.ID) (Result, error) {
	ctx, done, err := s.turns.take(ctx, id)
	if err != nil {
		return Result{}, err
	}
	defer done()
	rec, ok := s.Volumes.Get(id)
	if !ok {
		return Result{}, fmt.Errorf("volume %s: %w", id, volume.ErrNotFound)
	}
	if mount, err := s.Mounts.Mounted(rec.Target); err == nil && mount == 0 {
		gone := fmt.Errorf("volume %s: nothing is mounted at %s: %w", id, rec.Target, volume.ErrNotFound)
		return Result{}, errors.Join(gone, s.forget(id))
	}
	if until := s.grace(rec); time.Now().Before(until) {
		s.bearers.await(id)
		rec.Due = until
		return Result{Outcome: NotDue, Record: rec}, s.Volumes.Put(rec)
	}
	return s.refresh(ctx, rec)
}

// Unpublish implements Publisher.
func (s *Service) Unpublish(ctx context.Context, id volume.ID, target string) error {
	s.turns.evict(id)
	_, done, err := s.turns.take(ctx, id)
	if err != nil {
		return err
	}
	defer done()
	rec, ok := s.Volumes.Get(id)
	known := ok && rec.Target == target
	if known {
		s.erase(id, target, rec.Mount)
	}
	if err := s.Mounts.Unmount(target); err != nil {
		return fmt.Errorf("volume %s: unmount %s: %w", id, target, err)
	}
	if !known {
		return nil
	}
	return s.forget(id)
}

// erase overwrites what a volume holds that is about to be unmounted. If it
// cannot, the kernel frees the memory nevertheless.
func (s *Service) erase(id volume.ID, target string, mount uint64) {
	s.shredder.flush(id)
	if dir, err := s.Mounts.Open(target, mount); err == nil {
		_ = errors.Join(atomicdir.Erase(dir), dir.Close())
	}
}

// forget drops all that is known of a volume that is no longer mounted, and
// gives its lease back. On error the record may be left, and its lease with
// it: the call is repeated.
func (s *Service) forget(id volume.ID) error {
	s.bearers.forget(id)
	rec, _ := s.Volumes.Get(id)
	lease, err := s.releases.note(rec, rec.Provider, rec.Held.Lease, rec.Refreshed)
	if err != nil {
		return err
	}
	if err := s.Volumes.Delete(id); err != nil {
		return err
	}
	s.releases.free(lease)
	return nil
}

// recall returns the record of a volume that is published: the record of a
// mount that is gone, or that another mount covers, does not count.
func (s *Service) recall(v volume.Volume) (rec volume.Record, published bool, err error) {
	rec, ok := s.Volumes.Get(v.ID)
	if !ok {
		return rec, false, nil
	}
	mount, err := s.Mounts.Mounted(rec.Target)
	switch {
	case errors.Is(err, tmpfs.ErrCorrupted):
		return rec, false, nil
	case err != nil:
		return rec, false, fmt.Errorf("volume %s: look at %s: %w", v.ID, rec.Target, err)
	case mount == 0 || mount != rec.Mount:
		return rec, false, nil
	case rec.Target != v.Target:
		return rec, false, fmt.Errorf("volume %s is mounted at %s and cannot be mounted at %s as well: %w", v.ID, rec.Target, v.Target, ErrConflict)
	case rec.Class != v.Class || rec.Pod.UID != v.Pod.UID:
		return rec, false, fmt.Errorf("volume %s belongs to class %s and pod %s/%s: %w", v.ID, rec.Class, rec.Pod.Namespace, rec.Pod.Name, ErrConflict)
	}
	return rec, true, nil
}

func due(rec volume.Record) bool {
	return !rec.Due.IsZero() && !time.Now().Before(rec.Due)
}

// grace returns until when a refresh would only fail because a restart made
// the driver forget the tokens that kubelet will bring soon; zero if it would
// not. A lease that ends soon is worth trying without them.
func (s *Service) grace(rec volume.Record) time.Time {
	if !rec.Secretive || !s.bearers.of(rec.ID).empty() {
		return time.Time{}
	}
	grace := bearerGrace
	if end := rec.Held.Lease.Expires; !end.IsZero() {
		grace = min(grace, end.Sub(s.started)/2)
	}
	return s.started.Add(grace)
}

// create publishes a volume for the first time, or leaves nothing. A memory
// file system that is there already, with something in it, belongs to a pod
// that may be running, from before this driver's records: it is taken over,
// and on failure it is left as it was, with an error.
func (s *Service) create(ctx context.Context, v volume.Volume) (Result, error) {
	if err := s.mustBeFree(v); err != nil {
		return Result{}, err
	}
	src, err := s.source(ctx, v.Class)
	if err != nil {
		return src.failed(), err
	}
	if s.MaxVolumes > 0 && s.Volumes.Len() >= s.MaxVolumes {
		return src.failed(), fmt.Errorf("the node has %d volumes, which is all that it may have: %w", s.MaxVolumes, provider.ErrUnavailable)
	}
	limits := s.Limits
	limits.Group = v.Group
	mount, kept, err := s.Mounts.Mount(v.Target, limits) // before the fetch: old plugins write into it
	if err != nil {
		return src.failed(), fmt.Errorf("mount %s: %w", v.Target, err)
	}
	inUse := kept && s.holdsFiles(v.Target, mount) == nil
	rec, err := s.newRecord(v, mount)
	if err == nil {
		var res Result
		if res, err = s.renew(ctx, src, &rec, bearer{v.Tokens, v.Credentials}); err == nil {
			s.bearers.bring(v)
			res.Outcome = Created
			return res, nil
		}
	}
	if inUse {
		return src.failed(), fmt.Errorf("volume %s: keeping what %s already holds: %w", v.ID, v.Target, err)
	}
	s.erase(v.ID, v.Target, mount)
	return src.failed(), errors.Join(err, s.Mounts.Unmount(v.Target), s.forget(v.ID))
}

// mustBeFree refuses to publish into the mount of another volume.
func (s *Service) mustBeFree(v volume.Volume) error {
	mount, _ := s.Mounts.Mounted(v.Target) // one that cannot be looked at is nobody's; Mount removes it
	if mount == 0 {
		return nil
	}
	for _, other := range s.Volumes.List() {
		if other.ID != v.ID && other.Target == v.Target && other.Mount == mount {
			return fmt.Errorf("volume %s: %s is the mount of volume %s: %w", v.ID, v.Target, other.ID, ErrConflict)
		}
	}
	return nil
}

// newRecord returns the record to begin with: the one of the very mount if
// there is one, which another mount covered. That of a mount that is gone is
// dropped.
func (s *Service) newRecord(v volume.Volume, mount uint64) (volume.Record, error) {
	fresh := volume.Record{
		ID: v.ID, Target: v.Target, Mount: mount,
		Class: v.Class, Pod: v.Pod, Attributes: v.Attributes, Group: v.Group,
		Published: time.Now(),
	}
	known, ok := s.Volumes.Get(v.ID)
	switch {
	case !ok:
		return fresh, nil
	case known.Mount == mount && known.Target == v.Target:
		return known, nil
	default:
		return fresh, s.forget(v.ID)
	}
}

// refresh brings a published volume up to date, or leaves it as it was and
// notes why.
func (s *Service) refresh(ctx context.Context, rec volume.Record) (Result, error) {
	src, err := s.source(ctx, rec.Class)
	if err != nil {
		return s.stale(ctx, rec, 0, err)
	}
	res, err := s.renew(ctx, src, &rec, s.bearers.of(rec.ID))
	if err != nil {
		return s.stale(ctx, rec, src.interval, err)
	}
	return res, nil
}

// renew brings the content of a mounted volume up to date and remembers it.
// On error rec is what is known of the volume then. A lease that was issued
// in vain is given back.
func (s *Service) renew(ctx context.Context, src source, rec *volume.Record, b bearer) (Result, error) {
	held := src.held(*rec)
	if s.NeedsFiles != nil && held.Lease.IsZero() && s.NeedsFiles(rec.ID, src.class) {
		held.Versions = nil
	}
	rec.Secretive = !b.empty()
	bundle, err := s.fetch(ctx, src, *rec, b, held)
	if err != nil {
		return Result{}, err
	}
	issued, err := s.issued(src, *rec, held, bundle)
	var changed bool
	if err == nil {
		changed, err = s.keep(ctx, src, rec, held, bundle)
	}
	if err != nil {
		s.releases.free(issued)
		return Result{}, err
	}
	s.releases.keep(issued)
	outcome := Unchanged
	if changed {
		outcome = Rotated
	}
	return Result{Outcome: outcome, Record: *rec, Class: src.class, Bundle: bundle}, nil
}

// issued notes the lease of a bundle, unless the volume holds it already.
func (s *Service) issued(src source, rec volume.Record, held provider.Held, bundle *provider.Bundle) (volume.ID, error) {
	if bundle == nil || bundle.Lease.ID == held.Lease.ID {
		return "", nil
	}
	return s.releases.note(rec, src.class.Provider, bundle.Lease, time.Now())
}

// keep makes the volume hold the bundle, and remembers that.
func (s *Service) keep(ctx context.Context, src source, rec *volume.Record, held provider.Held, bundle *provider.Bundle) (changed bool, err error) {
	if err := context.Cause(ctx); errors.Is(err, ErrUnpublished) {
		return false, err
	}
	if err := bundle.Validate(); err != nil {
		return false, fmt.Errorf("provider %q: class %s: %w", src.class.Provider, src.class.Name, err)
	}
	before := *rec
	if err := s.foresee(src, rec, held, bundle); err != nil {
		return false, err
	}
	if changed, err = s.write(*rec, held, bundle); err != nil {
		return changed, errors.Join(err, s.regret(rec, before, changed))
	}
	now, next := time.Now(), *rec
	next.Provider, next.Revision = src.class.Provider, src.class.Revision
	next.Held = provider.Held{Versions: bundle.Versions, Lease: bundle.Lease}
	next.Refreshed, next.Expires, next.Stale = now, bundle.Expires, volume.Staleness{}
	next.Due = s.Schedule.refreshed(now, src.interval, src.group(next), bundle)
	if err := s.Volumes.Put(next); err != nil {
		return changed, errors.Join(fmt.Errorf("remember volume %s: %w", rec.ID, err), s.regret(rec, before, changed))
	}
	*rec = next
	return changed, nil
}

// foresee makes the record of a published volume hold the lease that replaces
// its own, before the files do. A driver that is killed while it writes them
// leaves a volume that is due, of which nothing is known but the lease: its
// successor renews that one, and fetches the files that belong to it.
func (s *Service) foresee(src source, rec *volume.Record, held provider.Held, bundle *provider.Bundle) error {
	_, published := s.Volumes.Get(rec.ID)
	if !published || bundle.Lease.ID == "" || bundle.Lease.ID == held.Lease.ID {
		return nil
	}
	ahead := *rec
	ahead.Provider, ahead.Held, ahead.Due = src.class.Provider, provider.Held{Lease: bundle.Lease}, time.Now()
	if err := s.Volumes.Put(ahead); err != nil {
		return fmt.Errorf("remember the lease of volume %s: %w", rec.ID, err)
	}
	*rec = ahead
	return nil
}

// regret makes rec say what the volume holds once it could not be made to
// hold a bundle: what it held before, or, if files have changed, something of
// unknown versions.
func (s *Service) regret(rec *volume.Record, before volume.Record, changed bool) error {
	switch {
	case changed:
		rec.Held.Versions = nil
		return nil
	case rec.Held.Lease.ID == before.Held.Lease.ID:
		return nil
	}
	if err := s.Volumes.Put(before); err != nil {
		return fmt.Errorf("remember that volume %s keeps its lease: %w", rec.ID, err)
	}
	*rec = before
	return nil
}
