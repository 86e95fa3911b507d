package publish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keymount/keymount/pkg/atomicdir"
	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/volume"
)

// reserved is the prefix of the volume attributes that kubelet sets.
const reserved = "csi.storage.k8s.io/"

// A source is where the files of a volume come from.
type source struct {
	class    *class.Class
	provider provider.Provider
	interval time.Duration // zero: never refreshed
}

// source resolves the class of a volume and its provider.
func (s *Service) source(ctx context.Context, name class.Name) (source, error) {
	c, err := s.Classes.Class(ctx, name)
	if err != nil {
		return source{}, fmt.Errorf("failed to get secretproviderclass %s: %w", name, err) // a text that people search for
	}
	var fallback time.Duration
	if s.Schedule != nil {
		fallback = s.Schedule.Interval
	}
	interval, err := c.Rotation(fallback)
	if err != nil {
		return source{}, err
	}
	p, err := s.Providers(c.Provider)
	if err != nil {
		return source{}, fmt.Errorf("class %s: %w", name, err)
	}
	return source{c, p, interval}, nil
}

// held returns what the source may assume the volume to hold. Versions say
// nothing once the class has changed, and a lease belongs to one provider.
func (src source) held(rec volume.Record) provider.Held {
	switch {
	case rec.Provider != src.class.Provider:
		return provider.Held{}
	case rec.Revision != src.class.Revision:
		return provider.Held{Lease: rec.Held.Lease}
	default:
		return rec.Held
	}
}

// group names the volumes that share fetches with v.
func (src source) group(v volume.Volume) string {
	return src.class.Provider + "\x00" + src.class.Name.String() + "\x00" + v.Pod.ServiceAccount
}

// fetch asks the source for the whole content of a volume, and checks it.
func (s *Service) fetch(ctx context.Context, src source, v volume.Volume, held provider.Held) (*provider.Bundle, error) {
	bundle, err := src.provider.Fetch(ctx, &provider.Request{
		Class:       src.class.Name.String(),
		Parameters:  s.parameters(src, v),
		Pod:         v.Pod,
		Tokens:      v.Tokens.Live(time.Now()),
		Credentials: v.Credentials,
		Held:        held,
		Mode:        defaultMode(v),
		Dir:         v.Target,
	})
	if cause := context.Cause(ctx); cause != nil && errors.Is(cause, ErrUnpublished) {
		return nil, cause
	}
	if err != nil {
		return nil, err // names provider and class
	}
	if err := bundle.Validate(); err != nil {
		return nil, fmt.Errorf("provider %q: class %s: %w", src.class.Provider, src.class.Name, err)
	}
	return bundle, nil
}

// parameters joins those of the class with the pod's own attributes.
func (s *Service) parameters(src source, v volume.Volume) map[string]string {
	own := src.class.ProviderParameters()
	joined := maps.Clone(own)
	for key, value := range v.Attributes {
		_, taken := own[key]
		switch {
		case strings.HasPrefix(key, reserved), key == class.RotationInterval:
			// Kubelet's attributes are in Request.Pod and Request.Tokens.
		case taken && !s.AttributesWin:
			// The author of the class decides, not the author of the pod.
		default:
			joined[key] = value
		}
	}
	return joined
}

// defaultMode is the mode of files whose object names none: only the pod's
// group reads them where the pod has one.
func defaultMode(v volume.Volume) fs.FileMode {
	if v.Group != nil {
		return 0o640
	}
	return 0o644
}

// write makes the mounted directory hold exactly the bundle, and reports
// whether anything changed. It looks at the mount before, so that no secret
// reaches the directory below it, and after, so that success means mounted.
func (s *Service) write(v volume.Volume, mount uint64, held provider.Held, bundle *provider.Bundle) (changed bool, err error) {
	if err := s.mustBeMounted(v.Target, mount); err != nil {
		return false, err
	}
	if bundle.Unchanged {
		changed, err = !bundle.Versions.Equal(held.Versions), mustHoldFiles(v.Target)
	} else {
		changed, err = s.writeFiles(v, bundle.Files)
	}
	if err != nil {
		return changed, err
	}
	return changed, s.mustBeMounted(v.Target, mount)
}

func (s *Service) mustBeMounted(target string, mount uint64) error {
	switch now, err := s.Mounts.Mounted(target); {
	case err != nil:
		return fmt.Errorf("look at %s: %w", target, err)
	case now != mount:
		return fmt.Errorf("%s is no longer the mount that was made for the volume", target)
	}
	return nil
}

func (s *Service) writeFiles(v volume.Volume, fetched []provider.File) (changed bool, err error) {
	files := make([]atomicdir.File, len(fetched))
	for i, f := range fetched {
		files[i] = atomicdir.File{Path: f.Path, Mode: f.Mode, Data: f.Data.Reveal()}
	}
	changed, err = atomicdir.Write(v.Target, files, &atomicdir.Options{Group: v.Group})
	switch {
	case errors.Is(err, unix.ENOSPC):
		return changed, fmt.Errorf("write to %s: the volume is limited to %d bytes and %d files, and holds two generations while it rotates; raise --tmpfs-size: %w",
			v.Target, s.Limits.Size, s.Limits.Inodes, err)
	case err != nil:
		return changed, fmt.Errorf("write to %s: %w", v.Target, err)
	}
	return changed, nil
}

// mustHoldFiles refuses an empty directory: a plugin that says it has written
// the files itself must have done so.
func mustHoldFiles(target string) error {
	dir, err := os.Open(target)
	if err != nil {
		return fmt.Errorf("look at %s: %w", target, err)
	}
	defer dir.Close()
	if _, err := dir.Readdirnames(1); err != nil {
		return fmt.Errorf("the provider returned no files, and has written none into %s", target)
	}
	return nil
}

// refreshed notes in a record that the volume holds the bundle since now.
func (s *Service) refreshed(rec *volume.Record, src source, v volume.Volume, bundle *provider.Bundle, now time.Time) {
	rec.Provider = src.class.Provider
	rec.Revision = src.class.Revision
	rec.Held = provider.Held{Versions: bundle.Versions, Lease: bundle.Lease}
	rec.Secretive = !bearer{v.Tokens, v.Credentials}.empty()
	rec.Refreshed = now
	rec.Due = s.Schedule.refreshed(now, src.interval, src.group(v), bundle)
	rec.Stale = volume.Staleness{}
}

// stale notes that a volume keeps what it held because of err. A call that
// was cancelled says nothing of the backend and leaves no note.
func (s *Service) stale(ctx context.Context, rec volume.Record, interval time.Duration, err error) (Result, error) {
	now := time.Now()
	since := rec.Stale.Since
	if rec.Stale.IsZero() {
		since = now
	}
	if !errors.Is(context.Cause(ctx), context.Canceled) && !errors.Is(err, ErrUnpublished) {
		failures := rec.Stale.Failures + 1
		rec.Stale = volume.Staleness{Since: since, Failures: failures, Reason: provider.Reason(err), Message: err.Error()}
		rec.Due = s.Schedule.failed(now, interval, failures)
		err = errors.Join(err, s.Volumes.Put(rec))
	}
	return Result{Record: rec}, &StaleError{ID: rec.ID, Since: since, Err: err}
}

// release gives a lease back in the background, as a best effort.
func (s *Service) release(ctx context.Context, name string, lease provider.Lease) {
	if lease.IsZero() {
		return
	}
	p, err := s.Providers(name)
	if err != nil {
		return
	}
	releaser, ok := provider.As[provider.Releaser](p)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	s.releases.Go(func() {
		defer cancel()
		_ = releaser.Release(ctx, lease)
	})
}
