package publish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keymount/keymount/pkg/atomicdir"
	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/volume"
)

const (
	// reserved is the prefix of the volume attributes that kubelet sets.
	reserved = "csi.storage.k8s.io/"
	// classAttribute names the class; plugins have always seen it.
	classAttribute = "secretProviderClass"
)

// A source is where the files of a volume come from.
type source struct {
	class    *class.Class
	provider provider.Provider
	interval time.Duration // zero: never refreshed
}

// source resolves the class of a volume and its provider. With an error it
// has the class, if that was found.
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
		return source{class: c}, err
	}
	p, err := s.Providers(c.Provider)
	if err != nil {
		return source{class: c}, fmt.Errorf("class %s: %w", name, err)
	}
	return source{c, p, interval}, nil
}

// failed is the Result of a publish that failed: no more than whose fault it
// may be.
func (src source) failed() Result {
	if src.class == nil {
		return Result{}
	}
	return Result{Record: volume.Record{Provider: src.class.Provider}}
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

// group names the volumes that share fetches with that of rec.
func (src source) group(rec volume.Record) string {
	return src.class.Provider + "\x00" + src.class.Name.String() + "\x00" + rec.Pod.ServiceAccount
}

// fetch asks the source for the whole content of a volume.
func (s *Service) fetch(ctx context.Context, src source, rec volume.Record, b bearer, held provider.Held) (*provider.Bundle, error) {
	bundle, err := src.provider.Fetch(ctx, &provider.Request{
		Class:       src.class.Name.String(),
		Parameters:  s.parameters(src, rec),
		Pod:         rec.Pod,
		Tokens:      b.tokens.Live(time.Now()),
		Credentials: b.credentials,
		Held:        held,
		Mode:        defaultMode(rec),
		Dir:         rec.Target,
	})
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, ErrUnpublished) {
		return nil, cause
	}
	return bundle, err
}

// parameters returns those of the class, and what kubelet says of the volume;
// what it says of the pod is in Request.Pod, so that pods which share a fetch
// ask for the same. The author of the class decides: what else the author of
// the pod set is passed on only where AttributesWin.
func (s *Service) parameters(src source, rec volume.Record) map[string]string {
	joined := src.class.ProviderParameters()
	for key, value := range rec.Attributes {
		kubelets := strings.HasPrefix(key, reserved)
		ofPod := strings.HasPrefix(key, reserved+"pod.") || strings.HasPrefix(key, reserved+"serviceAccount.")
		switch {
		case ofPod, key == class.RotationInterval:
		case kubelets, key == classAttribute, s.AttributesWin:
			joined[key] = value
		}
	}
	return joined
}

// defaultMode is the mode of files whose object names none: only the pod's
// group reads them where the pod has one.
func defaultMode(rec volume.Record) fs.FileMode {
	if rec.Group != nil {
		return 0o640
	}
	return 0o644
}

// write makes the mounted directory hold exactly the bundle, and reports
// whether anything changed. It works on the directory of the mount itself, so
// that no secret reaches what is below it, and looks at the target again
// after, so that success means mounted.
func (s *Service) write(rec volume.Record, held provider.Held, bundle *provider.Bundle) (changed bool, err error) {
	switch {
	case !bundle.Unchanged:
		changed, err = s.writeFiles(rec, bundle.Files)
	case bundle.Versions.Equal(held.Versions):
		err = s.holdsFiles(rec.Target, rec.Mount)
	default: // a plugin of the old kind has written into the target itself
		changed, err = true, errors.Join(s.holdsFiles(rec.Target, rec.Mount), holdsNoneOfOurs(rec.Target))
	}
	if err != nil {
		return changed, err
	}
	switch mount, err := s.Mounts.Mounted(rec.Target); {
	case err != nil:
		return changed, fmt.Errorf("look at %s: %w", rec.Target, err)
	case mount != rec.Mount:
		return changed, fmt.Errorf("%s is no longer the mount that was made for the volume", rec.Target)
	}
	return changed, nil
}

func (s *Service) writeFiles(rec volume.Record, fetched []provider.File) (changed bool, err error) {
	dir, err := s.Mounts.Open(rec.Target, rec.Mount)
	if err != nil {
		return false, fmt.Errorf("open %s: %w", rec.Target, err)
	}
	defer dir.Close()
	files := make([]atomicdir.File, len(fetched))
	for i, f := range fetched {
		files[i] = atomicdir.File{Path: f.Path, Mode: f.Mode, Data: f.Data.Reveal()}
	}
	opts := &atomicdir.Options{Group: rec.Group, Removed: func(file *os.File) { s.shredder.take(rec.ID, file) }}
	changed, err = atomicdir.WriteIn(dir, files, opts)
	if errors.Is(err, unix.ENOSPC) && s.shredder.drop(rec.ID) { // the generation before the last may still be there
		changed, err = atomicdir.WriteIn(dir, files, opts)
	}
	switch {
	case errors.Is(err, unix.ENOSPC):
		return changed, fmt.Errorf("write to %s: the volume is limited to %d bytes and %d files, and holds two generations while it rotates; raise --tmpfs-size: %w",
			rec.Target, s.Limits.Size, s.Limits.Inodes, err)
	case err != nil:
		return changed, fmt.Errorf("write to %s: %w", rec.Target, err)
	}
	return changed, nil
}

// holdsNoneOfOurs refuses a directory that the driver has filled: a plugin that
// used to return files and now returns none, of other versions, has not
// written any, and the old ones must not pass for the new.
func holdsNoneOfOurs(target string) error {
	if _, err := os.Lstat(filepath.Join(target, "..data")); err == nil {
		return fmt.Errorf("the provider returned other versions and no files for %s, whose files it had returned before", target)
	}
	return nil
}

// holdsFiles refuses an empty directory: a plugin that says it has written the
// files itself must have done so.
func (s *Service) holdsFiles(target string, mount uint64) error {
	dir, err := s.Mounts.Open(target, mount)
	if err != nil {
		return fmt.Errorf("open %s: %w", target, err)
	}
	defer dir.Close()
	if _, err := dir.Readdirnames(1); err != nil {
		return fmt.Errorf("the provider returned no files, and has written none into %s", target)
	}
	return nil
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
		rec.Stale = volume.Staleness{Since: since, Failures: failures, Reason: Reason(err), Message: err.Error()}
		rec.Due = s.Schedule.failed(now, interval, failures, rec.Held.Lease)
		err = errors.Join(err, s.Volumes.Put(rec))
	}
	return Result{Record: rec}, &StaleError{ID: rec.ID, Since: since, Err: err}
}

// Reason is provider.Reason, which knows no classes, for errors of a Publisher.
func Reason(err error) string {
	switch {
	case errors.Is(err, class.ErrNotFound):
		return "NotFound"
	case errors.Is(err, class.ErrInvalid):
		return "Invalid"
	case errors.Is(err, context.DeadlineExceeded):
		return "Unavailable"
	default:
		return provider.Reason(err)
	}
}
