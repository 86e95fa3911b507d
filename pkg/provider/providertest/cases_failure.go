package providertest

import (
	"strings"

	"github.com/keymount/keymount/pkg/provider"
)

// failureCases are about why a fetch fails.
func failureCases() []testCase {
	return []testCase{
		{"AllOrNothing", always, allOrNothing},
		{"MissingIsNotFoundAndNamesTheObject", always, missingIsNotFound},
		{"DeniedIsDenied", needs[Denier]("Denier"), deniedIsDenied},
		{"OutageIsUnavailable", needs[Breaker]("Breaker"), outageIsUnavailable},
		{"RecoversAfterOutage", needs[Breaker]("Breaker"), recoversAfterOutage},
	}
}

func allOrNothing(s *suite) {
	values := s.put("first", "last")
	_ = s.fails(s.request("first", "missing", "last"), provider.ErrNotFound)
	s.holds(s.fetch(s.request("first", "last")), values, nil)
}

func missingIsNotFound(s *suite) {
	s.put("kept", "deleted")
	held := s.fetch(s.request("kept", "deleted")).Versions
	s.backend.Delete(s, "deleted")
	for _, missing := range []string{"deleted", "never-was"} {
		req := s.request("kept", missing)
		req.Held.Versions = held
		if err := s.fails(req, provider.ErrNotFound); !strings.Contains(err.Error(), missing) {
			s.Errorf("the error %q does not name the missing object %q", err, missing)
		}
	}
}

// deniedIsDenied also holds what is current: who may not read any more is not
// told that nothing has changed.
func deniedIsDenied(s *suite) {
	values := s.put("open", "closed")
	held := s.fetch(s.request("open", "closed")).Versions
	s.backend.(Denier).Deny(s, "closed")
	_ = s.fails(s.request("open", "closed"), provider.ErrDenied)
	req := s.request("open", "closed")
	req.Held.Versions = held
	_ = s.fails(req, provider.ErrDenied)
	delete(values, "closed")
	s.holds(s.fetch(s.request("open")), values, nil)
}

func outageIsUnavailable(s *suite) {
	s.put("a")
	held := s.fetch(s.request("a")).Versions
	s.backend.(Breaker).Break(s)
	_ = s.fails(s.request("a"), provider.ErrUnavailable)
	_ = s.fails(s.request("never-was"), provider.ErrUnavailable)
	req := s.request("a")
	req.Held.Versions = held
	_ = s.fails(req, provider.ErrUnavailable)
}

func recoversAfterOutage(s *suite) {
	values := s.put("a")
	s.backend.(Breaker).Break(s)
	_ = s.fails(s.request("a"), provider.ErrUnavailable)
	s.backend.(Breaker).Repair(s)
	s.holds(s.fetch(s.request("a")), values, nil)
}
