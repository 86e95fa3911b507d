package publish

import (
	"fmt"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

var base = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestGridBounds(t *testing.T) {
	for _, interval := range []time.Duration{time.Second, 30 * time.Second, 2 * time.Minute, time.Hour, 365 * 24 * time.Hour} {
		for i := range 200 {
			s := &Schedule{Node: fmt.Sprint("node", i)}
			group := fmt.Sprint("group", i)
			now := base.Add(time.Duration(i) * interval / 37)
			first := s.refreshed(now, interval, group, &provider.Bundle{})
			if wait := first.Sub(now); wait < interval/10 || wait > interval+interval/10 {
				t.Fatalf("first refresh after %v, want 10 %% to 110 %% of %v", wait, interval)
			}
			second := s.refreshed(first, interval, group, &provider.Bundle{})
			if wait := second.Sub(first); wait < interval*9/10-1024 || wait > interval {
				t.Fatalf("second refresh after %v, want 90 %% to 100 %% of %v", wait, interval)
			}
		}
	}
}

func TestVolumesOfOneGroupMeet(t *testing.T) {
	s := &Schedule{Node: "n"}
	due := make(map[time.Time]bool)
	const interval = 2 * time.Minute
	at := base
	for range 100 {
		at = at.Add(150 * time.Millisecond) // a Deployment that starts for 15 s
		due[s.refreshed(at, interval, "g", &provider.Bundle{})] = true
	}
	if len(due) > 2 {
		t.Errorf("100 volumes of one group are due at %d moments, want 1, or 2 across a grid point", len(due))
	}
}

func TestGroupsAndNodesSpread(t *testing.T) {
	due := make(map[time.Time]bool)
	for i := range 100 {
		s := &Schedule{Node: fmt.Sprint("n", i%10)}
		due[s.refreshed(base, time.Hour, fmt.Sprint("g", i/10), &provider.Bundle{})] = true
	}
	if len(due) < 100 {
		t.Errorf("100 groups are due at %d moments, want 100", len(due))
	}
}

func TestRefreshed(t *testing.T) {
	for _, c := range []struct {
		name     string
		schedule *Schedule
		interval time.Duration
		bundle   provider.Bundle
		want     time.Time
	}{
		{"rotation off means never", nil, time.Minute, provider.Bundle{Refresh: base.Add(time.Hour)}, time.Time{}},
		{"interval zero means never", &Schedule{}, 0, provider.Bundle{}, time.Time{}},
		{"the provider's own time counts", &Schedule{}, time.Minute, provider.Bundle{Refresh: base.Add(time.Hour)}, base.Add(time.Hour)},
		{"even where the class says never", &Schedule{}, 0, provider.Bundle{Refresh: base.Add(time.Hour)}, base.Add(time.Hour)},
		{"a time that has passed is not a busy loop", &Schedule{}, time.Minute, provider.Bundle{Refresh: base.Add(-time.Hour)}, base.Add(minGap)},
		{"a lease without an end is no reason to refresh", &Schedule{}, time.Minute, provider.Bundle{
			Refresh: base.Add(time.Hour), Lease: provider.Lease{ID: "l", Expires: time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)},
		}, base.Add(time.Hour)},
		{"a lease that has ended is not a busy loop", &Schedule{}, 0, provider.Bundle{Lease: provider.Lease{ID: "l", Expires: base.Add(-time.Minute)}}, base.Add(minGap)},
		{"what expires is asked for again before that", &Schedule{}, 0, provider.Bundle{Expires: base.Add(time.Hour)}, base.Add(30 * time.Minute)},
		{"also where the provider has a later time", &Schedule{}, 0, provider.Bundle{Expires: base.Add(time.Hour), Refresh: base.Add(2 * time.Hour)}, base.Add(30 * time.Minute)},
		{"what expires at once is not a busy loop", &Schedule{}, 0, provider.Bundle{Expires: base.Add(time.Second)}, base.Add(expiryGap)},
		{"what has expired is no reason to refresh", &Schedule{}, 0, provider.Bundle{Expires: base}, time.Time{}},
		{"rotation off means never, also before an expiry", nil, 0, provider.Bundle{Expires: base.Add(time.Hour)}, time.Time{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.schedule.refreshed(base, c.interval, "g", &c.bundle); !got.Equal(c.want) {
				t.Errorf("refreshed = %v, want %v", got, c.want)
			}
		})
	}
}

func TestBackoffGrowsToACap(t *testing.T) {
	s := &Schedule{}
	for failures, want := range map[int]time.Duration{
		1: 5 * time.Second, 2: 10 * time.Second, 3: 20 * time.Second, 6: 160 * time.Second,
		7: 5 * time.Minute, 100: 5 * time.Minute, 1 << 30: 5 * time.Minute,
	} {
		wait := s.failed(base, time.Hour, failures, provider.Lease{}).Sub(base)
		if wait < want*9/10 || wait > want*11/10 {
			t.Errorf("after %d failures wait %v, want %v +/- 10 %%", failures, wait, want)
		}
	}
	if wait := s.failed(base, time.Second, 1, provider.Lease{}).Sub(base); wait > 1100*time.Millisecond {
		t.Errorf("after 1 failure at an interval of 1s wait %v, want about 1s", wait)
	}
	if got := (*Schedule)(nil).failed(base, time.Second, 1, provider.Lease{}); !got.IsZero() {
		t.Errorf("failed without rotation = %v, want never", got)
	}
}

func TestALeaseIsRenewedInTime(t *testing.T) {
	const life = time.Hour
	shares := make(map[time.Duration]bool)
	for i := range 1000 {
		s := &Schedule{Node: fmt.Sprint("node", i%4)}
		b := &provider.Bundle{Lease: provider.Lease{ID: fmt.Sprint("database/creds/role/", i), Expires: base.Add(life)}}
		for interval, name := range map[time.Duration]string{0: "never", 24 * life: "later"} {
			wait := s.refreshed(base, interval, "g", b).Sub(base)
			if wait < life*6/10 || wait > life*2/3 {
				t.Fatalf("where the class says %s, a lease of %v is renewed after %v, want 60 %% to two thirds", name, life, wait)
			}
			shares[wait.Round(life/1000)] = true
		}
	}
	if len(shares) < 60 { // of 67 thousandths of an hour
		t.Errorf("1000 leases of one moment are renewed at %d moments, want them spread", len(shares))
	}
}

func TestALeaseHasTheSameShareOfLifeEachTime(t *testing.T) {
	s := &Schedule{Node: "n"}
	b := &provider.Bundle{Lease: provider.Lease{ID: "l", Expires: base.Add(time.Hour)}}
	if one, two := s.refreshed(base, 0, "g", b), s.refreshed(base, 0, "g", b); !one.Equal(two) {
		t.Errorf("the same lease is renewed at %v and at %v", one, two)
	}
}

func TestABackoffLeavesTimeToSaveTheLease(t *testing.T) {
	s := &Schedule{}
	for failures := 1; failures < 10; failures++ {
		for _, left := range []time.Duration{90 * time.Millisecond, 2 * time.Second, 7 * time.Second, time.Minute, 9 * time.Minute, time.Hour} {
			wait := s.failed(base, time.Hour, failures, provider.Lease{ID: "l", Expires: base.Add(left)}).Sub(base)
			if wait > max(left, minGap)*6/10 && left >= 2*minGap {
				t.Errorf("failure %d: next attempt in %v, of a lease that ends in %v", failures, wait, left)
			}
			if wait < minGap*9/10 {
				t.Errorf("failure %d: next attempt in %v, which is a busy loop", failures, wait)
			}
		}
		ended := s.failed(base, time.Hour, failures, provider.Lease{ID: "l", Expires: base.Add(-time.Second)}).Sub(base)
		if ended < minBackoff*9/10 {
			t.Errorf("failure %d: next attempt in %v although the lease is over", failures, ended)
		}
	}
}
