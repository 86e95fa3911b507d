package providertest

import (
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// leaseCases are about dynamic credentials.
func leaseCases() []testCase {
	return []testCase{
		{"EachVolumeHasItsLease", needs[Leaser]("Leaser"), eachVolumeHasItsLease},
		{"LeaseIsRenewedNotReissued", needs[Leaser]("Leaser"), leaseIsRenewed},
		{"LeaseAloneGivesAllFiles", needs[Leaser]("Leaser"), leaseAloneGivesFiles},
		{"ReleaseRevokes", needs[Leaser]("Leaser"), releaseRevokes},
	}
}

// leased fetches, and checks that the answer is leased and that the backend
// has so many leases.
func (s *suite) leased(held provider.Held, leases int) *provider.Bundle {
	s.Helper()
	req := s.complete(s.backend.(Leaser).LeaseRequest(s))
	req.Held = held
	bundle := s.fetch(req)
	for _, file := range bundle.Files {
		s.said.forbid(canary(file.Data.Reveal()))
	}
	if bundle.Lease.ID == "" || !bundle.Lease.Expires.After(time.Now()) {
		s.Fatalf("the bundle has the lease %+v, want an ID and an expiry to come", bundle.Lease)
	}
	s.hasLeases(leases)
	return bundle
}

func (s *suite) hasLeases(want int) {
	s.Helper()
	if got := s.backend.(Leaser).Leases(s); got != want {
		s.Errorf("the backend has %d leases, want %d", got, want)
	}
}

func eachVolumeHasItsLease(s *suite) {
	one, two := s.leased(provider.Held{}, 1), s.leased(provider.Held{}, 2)
	if one.Lease.ID == two.Lease.ID {
		s.Errorf("two volumes have the same lease %q", one.Lease.ID)
	}
}

func leaseIsRenewed(s *suite) {
	first := s.leased(provider.Held{}, 1)
	want := map[string][]byte{}
	for _, file := range first.Files {
		want[file.Path] = file.Data.Reveal()
	}
	for range 3 {
		again := s.leased(provider.Held{Versions: first.Versions, Lease: first.Lease}, 1)
		if again.Lease.ID != first.Lease.ID || again.Lease.Expires.Before(first.Lease.Expires) {
			s.Errorf("the lease %+v was renewed as %+v, want the same ID and no earlier end", first.Lease, again.Lease)
		}
		if !again.Unchanged {
			s.holds(again, want, nil)
		}
	}
}

// A volume whose class was edited knows its lease and no versions. Whether the
// provider still has its credentials, or issues others, is its own affair.
func leaseAloneGivesFiles(s *suite) {
	first := s.leased(provider.Held{}, 1)
	req := s.complete(s.backend.(Leaser).LeaseRequest(s))
	req.Held.Lease = first.Lease
	again := s.fetch(req)
	if again.Unchanged || len(again.Files) != len(first.Files) || again.Lease.IsZero() {
		s.Errorf("a volume that holds only the lease %+v got %d files, the lease %+v and Unchanged %v; want all %d files, leased",
			first.Lease, len(again.Files), again.Lease, again.Unchanged, len(first.Files))
	}
	for _, file := range again.Files {
		s.said.forbid(canary(file.Data.Reveal()))
	}
}

func releaseRevokes(s *suite) {
	kept := s.leased(provider.Held{}, 1)
	released := s.leased(provider.Held{}, 2)
	releaser, ok := provider.As[provider.Releaser](s.provider)
	if !ok {
		s.Fatal("the provider leases and is no provider.Releaser")
	}
	for _, which := range []string{"first", "second"} {
		if err := releaser.Release(s.Context(), released.Lease); err != nil {
			s.note(nil, err)
			s.Errorf("%s Release: %v", which, err)
		}
		s.hasLeases(1)
	}
	s.leased(provider.Held{Versions: kept.Versions, Lease: kept.Lease}, 1)
	anew := s.leased(provider.Held{Versions: released.Versions, Lease: released.Lease}, 2)
	if anew.Unchanged {
		s.Error("Fetch says Unchanged of credentials that were released")
	}
}
