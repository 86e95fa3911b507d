package providertest

import (
	"maps"
	"strings"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
)

// warningCases are about what is served though something is wrong with it.
func warningCases() []testCase {
	return []testCase{
		{"ExpiredIsServedWithAWarning", needs[Expirer]("Expirer"), expiredIsServedWithAWarning},
	}
}

func expiredIsServedWithAWarning(s *suite) {
	values := s.put("old", "new")
	s.warns(s.fetch(s.request("old", "new")))
	s.backend.(Expirer).Expire(s, "old")
	expired := s.fetch(s.request("old", "new"))
	s.holds(expired, values, nil)
	s.warns(expired, "old")
	s.warns(s.fetch(s.request("new")))

	again := s.request("old", "new") // whether it is unchanged or not
	again.Held.Versions = maps.Clone(expired.Versions)
	if diff := cmp.Diff(expired.Warnings, s.fetch(again).Warnings); diff != "" {
		s.Errorf("Fetch warns of what is held in other words (-before +after):\n%s", diff)
	}
	s.put("old")
	s.warns(s.fetch(again))
}

// warns checks that the bundle warns of exactly these objects, which have
// expired.
func (s *suite) warns(bundle *provider.Bundle, names ...string) {
	s.Helper()
	if len(bundle.Warnings) != len(names) {
		s.Errorf("Fetch warns of %v, want a warning of each of %q", bundle.Warnings, names)
		return
	}
	for i, name := range names {
		if w := bundle.Warnings[i]; w.Reason != provider.Expired || !strings.Contains(w.Message, name) {
			s.Errorf("Fetch warns of %v, want that %q has expired", w, name)
		}
	}
}
