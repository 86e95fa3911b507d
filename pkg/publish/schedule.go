package publish

import (
	"hash/fnv"
	"math/rand/v2"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

const (
	minGap     = time.Second     // between two refreshes that a provider asks for
	minBackoff = 5 * time.Second // after the first failure, unless the interval is shorter
	maxBackoff = 5 * time.Minute
	expiryGap  = time.Minute // between two refreshes for what is about to expire
)

// A Schedule says when a volume is refreshed next. A nil Schedule never
// refreshes. It has no state: equal arguments give equal times, but for the
// jitter of a backoff.
//
// Volumes that share a fetch (same provider, class and identity) share a grid
// of due times, whatever moment they were published at, so that one fetch
// serves them all. Grids of different groups and nodes have different periods,
// between 90 % and 100 % of the interval, so that they do not meet. A volume's
// first refresh comes between 10 % and 110 % of the interval after publish.
//
// A lease is renewed between 60 % and two thirds of what remains of its life,
// each at a share of its own, so that volumes that were published together
// part. What expires is asked for again when half of the time until then is
// over, and so on.
type Schedule struct {
	Interval time.Duration // for classes that set none; zero: only those that do
	Node     string        // spreads nodes apart
}

// refreshed returns when a volume of the group is due that was fetched at now;
// zero means never.
func (s *Schedule) refreshed(now time.Time, interval time.Duration, group string, b *provider.Bundle) time.Time {
	if s == nil {
		return time.Time{}
	}
	due := b.Refresh
	switch {
	case due.IsZero() && interval > 0:
		due = s.grid(now, interval, group)
	case !due.IsZero() && due.Before(now.Add(minGap)):
		due = now.Add(minGap)
	}
	if !b.Lease.Expires.IsZero() {
		renew := now.Add(max(minGap, s.share(b.Lease.Expires.Sub(now), b.Lease.ID)))
		if due.IsZero() || renew.Before(due) {
			due = renew
		}
	}
	if left := b.Expires.Sub(now); left > 0 { // again and again, the less time there is
		if again := now.Add(max(expiryGap, left/2)); due.IsZero() || again.Before(due) {
			due = again
		}
	}
	return due
}

// grid returns the first point of the group's grid that lies at least a tenth
// of the interval after now.
func (s *Schedule) grid(now time.Time, interval time.Duration, group string) time.Time {
	sum := s.hash(group)
	period := interval - interval/10/1024*time.Duration(sum%1024)
	phase := time.Duration(sum>>10) % period
	earliest := now.Add(interval / 10)
	past := (time.Duration(earliest.UnixNano()) - phase) % period
	return earliest.Add(period - past)
}

// share returns the part of a life after which the lease of that ID is
// renewed.
func (s *Schedule) share(life time.Duration, lease string) time.Duration {
	return life/3*2 - life/15/1024*time.Duration(s.hash(lease)%1024)
}

// hash of a name on this node.
func (s *Schedule) hash(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(s.Node + "\x00" + name))
	return h.Sum64()
}

// failed returns when a volume is due whose refresh failed at now for the
// given number of times in a row. Before its lease ends it is tried again and
// again, each time when half of what remains is over.
func (s *Schedule) failed(now time.Time, interval time.Duration, failures int, lease provider.Lease) time.Time {
	if s == nil {
		return time.Time{}
	}
	first := minBackoff
	if interval > 0 {
		first = min(first, interval)
	}
	wait := backoff(first, failures)
	if left := lease.Expires.Sub(now); left > 0 {
		wait = min(wait, max(minGap, left/2))
	}
	return now.Add(jittered(wait))
}

// backoff returns the wait after so many failures in a row.
func backoff(first time.Duration, failures int) time.Duration {
	return min(first<<min(failures-1, 16), maxBackoff)
}

// jittered returns the wait, give or take 10 %.
func jittered(wait time.Duration) time.Duration {
	return wait + time.Duration(float64(wait)*(rand.Float64()-0.5)/5)
}
