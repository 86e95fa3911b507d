package publish

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/volume"
)

const (
	releaseTimeout = 10 * time.Second // of one attempt
	releasesAtOnce = 4                // of one provider; providers do not wait for one another
)

// releases gives back the leases that no volume holds any more. A lease is
// noted on disk before the driver acts on its fate: before the files of a new
// one are written, and before the record that holds it is deleted. Once that
// is done, the lease is either kept or freed. A driver that is killed in
// between leaves the note to its successor, which frees the lease unless the
// record of a volume holds it. So a lease may be given back twice, which is
// the same as once, and is neither forgotten nor taken away from a volume.
//
// It has one timer, and a goroutine for each attempt.
type releases struct {
	*Config

	mu      sync.Mutex
	pending map[volume.ID]*release
	timer   *time.Timer
	running int
	idle    chan struct{} // closed once nothing runs; nil until close
}

// A release is a lease that was noted.
type release struct {
	rec      volume.Record // of the lease; Due is when trying is of no use any more
	open     bool          // it is to be kept or freed
	running  bool
	due      time.Time // of the next attempt; zero: now
	failures int       // in a row
}

// newReleases returns what an earlier driver has left to do, and starts
// nothing.
func newReleases(c *Config) *releases {
	r := &releases{Config: c, pending: make(map[volume.ID]*release)}
	for _, rec := range c.Releases.List() {
		r.pending[rec.ID] = &release{rec: rec}
	}
	return r
}

// note remembers a lease of the provider of that name, which was renewed last
// at renewed, for or by the volume of rec. It waits to be kept or freed by the
// ID that note returns, also on error; "" means that nothing is leased.
func (r *releases) note(rec volume.Record, name string, lease provider.Lease, renewed time.Time) (volume.ID, error) {
	if lease.ID == "" {
		return "", nil
	}
	sum := sha256.Sum256([]byte(name + "\x00" + lease.ID)) // an ID may be any bytes
	noted := volume.Record{
		ID:       volume.ID(hex.EncodeToString(sum[:])),
		Class:    rec.Class,
		Pod:      rec.Pod,
		Provider: name,
		Held:     provider.Held{Lease: lease},
	}
	if !lease.Expires.IsZero() {
		// A renewal that was cut short may have begun a life as long just now.
		noted.Due = time.Now().Add(lease.Expires.Sub(renewed))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	known := r.pending[noted.ID]
	if known == nil {
		known = &release{}
		r.pending[noted.ID] = known
	}
	known.rec, known.open, known.due, known.failures = noted, true, time.Time{}, 0
	if err := r.Releases.Put(noted); err != nil {
		return noted.ID, fmt.Errorf("remember a lease of provider %q: %w", name, err)
	}
	return noted.ID, nil
}

// keep drops the note of a lease that the record of a volume now holds.
func (r *releases) keep(id volume.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.drop(id)
}

// free gives back a lease that no volume holds. It does not wait.
func (r *releases) free(id volume.ID) {
	if id == "" {
		return
	}
	r.mu.Lock()
	if noted := r.pending[id]; noted != nil {
		noted.open = false
	}
	r.mu.Unlock()
	r.work()
}

// work begins the attempts that are due and have room, and sets the timer for
// the next ones. The end of an attempt calls it again.
func (r *releases) work() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.idle != nil {
		return
	}
	running := make(map[string]int) // by provider
	var waiting []*release
	for _, p := range r.pending {
		switch {
		case p.running:
			running[p.rec.Provider]++
		case !p.open:
			waiting = append(waiting, p)
		}
	}
	slices.SortFunc(waiting, func(a, b *release) int { return a.due.Compare(b.due) })
	for _, p := range waiting {
		if wait := time.Until(p.due); wait > 0 {
			r.wake(wait)
			return
		}
		if running[p.rec.Provider] < releasesAtOnce && r.begin(p) {
			running[p.rec.Provider]++
		}
	}
}

// wake lets the timer call work. The caller holds r.mu.
func (r *releases) wake(wait time.Duration) {
	if r.timer == nil {
		r.timer = time.AfterFunc(wait, r.work)
		return
	}
	r.timer.Reset(wait)
}

// begin starts an attempt, unless a volume holds the lease: then its end will
// note it again. The caller holds r.mu.
func (r *releases) begin(p *release) bool {
	if slices.ContainsFunc(r.Volumes.List(), p.heldBy) {
		r.drop(p.rec.ID)
		return false
	}
	p.running = true
	r.running++
	rec := p.rec
	go func() { r.finish(p, rec, r.attempt(rec)) }()
	return true
}

func (p *release) heldBy(rec volume.Record) bool {
	return rec.Provider == p.rec.Provider && rec.Held.Lease.ID == p.rec.Held.Lease.ID
}

// attempt asks the provider once to end the lease.
func (r *releases) attempt(rec volume.Record) error {
	p, err := r.Providers(rec.Provider)
	if err != nil {
		return fmt.Errorf("%w: %w", provider.ErrUnavailable, err)
	}
	releaser, ok := provider.As[provider.Releaser](p)
	if !ok {
		return fmt.Errorf("provider %q leases and does not release: %w", rec.Provider, errors.ErrUnsupported)
	}
	ctx, cancel := context.WithTimeout(context.Background(), releaseTimeout)
	defer cancel()
	return releaser.Release(ctx, rec.Held.Lease)
}

// finish drops what is done or hopeless, and puts off the rest.
func (r *releases) finish(p *release, rec volume.Record, err error) {
	r.mu.Lock()
	p.running = false
	lost := err != nil && (final(err) || p.over(time.Now()))
	if lost || err == nil {
		r.drop(p.rec.ID)
	} else {
		p.retry(time.Now())
	}
	r.mu.Unlock()
	if lost && r.Lost != nil {
		r.Lost(rec, err)
	}
	r.work()
	r.leave()
}

// leave counts an attempt out.
func (r *releases) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running--; r.running == 0 && r.idle != nil {
		close(r.idle)
	}
}

// final reports whether the same attempt will always fail.
func final(err error) bool {
	for _, answer := range []error{provider.ErrInvalid, provider.ErrNotFound, provider.ErrDenied, errors.ErrUnsupported} {
		if errors.Is(err, answer) {
			return !errors.Is(err, provider.ErrUnavailable)
		}
	}
	return false
}

// over reports whether the store has ended the lease itself.
func (p *release) over(now time.Time) bool {
	return !p.rec.Due.IsZero() && !now.Before(p.rec.Due)
}

// retry puts the next attempt off. The last one comes when the lease ends.
func (p *release) retry(now time.Time) {
	p.failures++
	p.due = now.Add(jittered(backoff(minBackoff, p.failures)))
	if !p.rec.Due.IsZero() && p.due.After(p.rec.Due) {
		p.due = p.rec.Due
	}
}

// drop forgets a note. A file of it that cannot be removed costs one more
// attempt of the next driver. The caller holds r.mu.
func (r *releases) drop(id volume.ID) {
	if _, noted := r.pending[id]; noted {
		delete(r.pending, id)
		_ = r.Releases.Delete(id)
	}
}

// close lets no more attempts begin, and waits for those that run, but no
// longer than one may take. The rest stays noted for the next driver.
func (r *releases) close() {
	r.mu.Lock()
	if r.idle == nil {
		r.idle = make(chan struct{})
		if r.running == 0 {
			close(r.idle)
		}
		if r.timer != nil {
			r.timer.Stop()
		}
	}
	r.mu.Unlock()
	select {
	case <-r.idle:
	case <-time.After(releaseTimeout):
	}
}
