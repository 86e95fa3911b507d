package publish

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/tmpfs"
	"github.com/keymount/keymount/pkg/volume"
)

// ErrConflict: the volume is published, but not as the call describes it.
var ErrConflict = errors.New("the volume is published differently")

// releaseTimeout bounds the best effort to give a lease back.
const releaseTimeout = 10 * time.Second

// A Config says what a Service works with.
type Config struct {
	Classes   class.Source
	Providers provider.Lookup
	Mounts    Mounter
	Volumes   volume.Store

	Schedule *Schedule     // nil: volumes are never refreshed
	Limits   tmpfs.Options // of each volume; Group comes from the volume
	// AttributesWin lets the pod's volume attributes override parameters of
	// the class, as drivers before this one do.
	AttributesWin bool
}

// A Service is the Publisher that does the work.
type Service struct {
	Config
	started  time.Time
	turns    turns
	bearers  bearers
	releases sync.WaitGroup
}

// New returns a Service. Its life counts from here: refreshes of volumes that
// an earlier driver published wait a while for kubelet to bring their tokens.
func New(config Config) *Service {
	return &Service{Config: config, started: time.Now()}
}

// Close waits for releases of leases that are in progress; they are bounded.
func (s *Service) Close() { s.releases.Wait() }

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
		return Result{}, errors.Join(gone, s.forget(ctx, rec))
	}
	if err := s.mustBeMounted(rec.Target, rec.Mount); err != nil {
		return s.stale(ctx, rec, 0, err)
	}
	if s.mustWait(rec) {
		s.bearers.await(id)
		rec.Due = s.started.Add(bearerGrace)
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
	if err := s.Mounts.Unmount(target); err != nil {
		return fmt.Errorf("volume %s: unmount %s: %w", id, target, err)
	}
	rec, ok := s.Volumes.Get(id)
	if !ok || rec.Target != target {
		return nil
	}
	return s.forget(ctx, rec)
}

// forget drops all that is known of a volume that is no longer mounted, and
// gives its lease back.
func (s *Service) forget(ctx context.Context, rec volume.Record) error {
	s.bearers.forget(rec.ID)
	s.release(ctx, rec.Provider, rec.Held.Lease)
	return s.Volumes.Delete(rec.ID)
}

// recall returns the record of a volume that is published: the record of a
// mount that has gone, or that another mount covers, does not count.
func (s *Service) recall(v volume.Volume) (rec volume.Record, published bool, err error) {
	rec, ok := s.Volumes.Get(v.ID)
	if !ok {
		return rec, false, nil
	}
	mount, err := s.Mounts.Mounted(rec.Target)
	switch {
	case err != nil || mount == 0 || mount != rec.Mount:
		return rec, false, nil // a mount that cannot be looked at is replaced by create
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

// mustWait reports whether a refresh would only fail because a restart made
// the driver forget the tokens that kubelet will bring soon.
func (s *Service) mustWait(rec volume.Record) bool {
	return rec.Secretive && s.bearers.of(rec.ID).empty() && time.Since(s.started) < bearerGrace
}

// create publishes a volume for the first time, or leaves nothing. A mount
// that already holds a generation of files belongs to a pod that may be
// running, from before this driver's records: it is taken over, and on failure
// it is left as it was, with an error.
func (s *Service) create(ctx context.Context, v volume.Volume) (Result, error) {
	takeover, err := s.holdsFiles(v)
	if err != nil {
		return Result{}, err
	}
	res, err := s.fill(ctx, v)
	switch {
	case err == nil:
		s.bearers.bring(v)
		return res, nil
	case takeover:
		return Result{}, fmt.Errorf("volume %s: keeping what %s already holds: %w", v.ID, v.Target, err)
	}
	s.bearers.forget(v.ID)
	return Result{}, errors.Join(err, s.Mounts.Unmount(v.Target), s.Volumes.Delete(v.ID))
}

// holdsFiles reports whether a mount at the volume's target holds a generation
// of files. It refuses the mount of another volume.
func (s *Service) holdsFiles(v volume.Volume) (bool, error) {
	mount, _ := s.Mounts.Mounted(v.Target) // one that cannot be looked at cannot be kept
	if mount == 0 {
		return false, nil
	}
	for _, other := range s.Volumes.List() {
		if other.ID != v.ID && other.Target == v.Target && other.Mount == mount {
			return false, fmt.Errorf("volume %s: %s is the mount of volume %s: %w", v.ID, v.Target, other.ID, ErrConflict)
		}
	}
	_, err := os.Lstat(filepath.Join(v.Target, "..data"))
	return err == nil, nil
}

// fill mounts a volume, writes its files, and remembers it.
func (s *Service) fill(ctx context.Context, v volume.Volume) (Result, error) {
	src, err := s.source(ctx, v.Class)
	if err != nil {
		return Result{}, err
	}
	limits := s.Limits
	limits.Group = v.Group
	mount, err := s.Mounts.Mount(v.Target, limits) // before the fetch: old plugins write into it
	if err != nil {
		return Result{}, fmt.Errorf("mount %s: %w", v.Target, err)
	}
	bundle, err := s.fetch(ctx, src, v, provider.Held{})
	if err != nil {
		return Result{}, err
	}
	if _, err := s.write(v, mount, provider.Held{}, bundle); err != nil {
		s.release(ctx, src.class.Provider, bundle.Lease)
		return Result{}, err
	}
	now := time.Now()
	rec := volume.Record{
		ID: v.ID, Target: v.Target, Mount: mount,
		Class: v.Class, Pod: v.Pod, Attributes: v.Attributes, Group: v.Group,
		Published: now,
	}
	s.refreshed(&rec, src, v, bundle, now)
	if err := s.Volumes.Put(rec); err != nil {
		s.release(ctx, src.class.Provider, bundle.Lease)
		return Result{}, fmt.Errorf("remember volume %s: %w", v.ID, err)
	}
	return Result{Outcome: Created, Record: rec, Files: bundle.Files}, nil
}

// refresh brings a published volume up to date.
func (s *Service) refresh(ctx context.Context, rec volume.Record) (Result, error) {
	src, err := s.source(ctx, rec.Class)
	if err != nil {
		return s.stale(ctx, rec, 0, err)
	}
	b := s.bearers.of(rec.ID)
	v := volume.Volume{
		ID: rec.ID, Target: rec.Target, Class: rec.Class, Pod: rec.Pod, Attributes: rec.Attributes, Group: rec.Group,
		Tokens: b.tokens, Credentials: b.credentials,
	}
	held := src.held(rec)
	bundle, err := s.fetch(ctx, src, v, held)
	if err != nil {
		return s.stale(ctx, rec, src.interval, err)
	}
	changed, err := s.write(v, rec.Mount, held, bundle)
	if err != nil {
		if bundle.Lease.ID != held.Lease.ID {
			s.release(ctx, src.class.Provider, bundle.Lease)
		}
		return s.stale(ctx, rec, src.interval, err)
	}
	s.refreshed(&rec, src, v, bundle, time.Now())
	if err := s.Volumes.Put(rec); err != nil {
		return s.stale(ctx, rec, src.interval, fmt.Errorf("remember volume %s: %w", rec.ID, err))
	}
	if !changed {
		return Result{Outcome: Unchanged, Record: rec}, nil
	}
	return Result{Outcome: Rotated, Record: rec, Files: bundle.Files}, nil
}
