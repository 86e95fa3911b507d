package providertest

import (
	"bytes"
	"maps"
	"slices"

	"github.com/keymount/keymount/pkg/provider"
)

// versionCases are about versions, and about what a volume holds already.
func versionCases() []testCase {
	return []testCase{
		{"VersionStableWhileValueIs", always, versionStable},
		{"VersionChangesWithValue", always, versionChanges},
		{"EqualValuesDifferentObjectsDifferentVersions", always, equalValuesDifferentVersions},
		{"VersionIsNotAPlainHash", always, versionIsNotAPlainHash},
		{"HeldAndCurrentMayBeUnchanged", always, heldAndCurrent},
	}
}

func versionStable(s *suite) {
	s.put("a", "b")
	first := s.fetch(s.request("a", "b")).Versions
	s.put("unrelated")
	for range 3 {
		if again := s.fetch(s.request("a", "b")).Versions; !again.Equal(first) {
			s.Errorf("versions were %v and are %v, though no value changed", first, again)
		}
	}
}

func versionChanges(s *suite) {
	s.put("a", "b")
	before, other := s.fetch(s.request("a")).Versions, s.fetch(s.request("b")).Versions
	values := s.put("a")
	after := s.fetch(s.request("a"))
	s.holds(after, values, nil)
	if after.Versions.Equal(before) {
		s.Errorf("versions are still %v, though the value changed", before)
	}
	if again := s.fetch(s.request("b")).Versions; !again.Equal(other) {
		s.Errorf("versions of one object were %v and are %v, when another changed", other, again)
	}
}

// equalValuesDifferentVersions compares with an object of another value,
// because versions that count changes are equal for all new objects.
func equalValuesDifferentVersions(s *suite) {
	value := s.put("one", "different")["one"]
	s.backend.Put(s, "two", bytes.Clone(value))
	one, two, different := s.opaque(s.request("one")), s.opaque(s.request("two")), s.opaque(s.request("different"))
	if slices.Equal(one, two) && !slices.Equal(one, different) {
		s.Errorf("two objects have the versions %v because their values are equal: who reads versions learns that", one)
	}
}

// versionIsNotAPlainHash puts the same object into two backends: a version
// that depends on the value alone can be had by hashing guesses.
func versionIsNotAPlainHash(s *suite) {
	value := s.put("a")["a"]
	same, different := s.suite(s, s.said), s.suite(s, s.said)
	same.backend.Put(s, "a", bytes.Clone(value))
	different.put("a")
	here, there, other := s.opaque(s.request("a")), same.opaque(same.request("a")), different.opaque(different.request("a"))
	if slices.Equal(here, there) && !slices.Equal(here, other) {
		s.Errorf("the versions %v follow from the name and the value alone: who reads versions can test guesses", here)
	}
}

// opaque fetches and returns the versions without the names of the objects.
func (s *suite) opaque(req *provider.Request) []string {
	s.Helper()
	return slices.Sorted(maps.Values(s.fetch(req).Versions))
}

func heldAndCurrent(s *suite) {
	values := s.put("a", "b")
	current := s.fetch(s.request("a", "b"))
	again := s.request("a", "b")
	again.Held.Versions = maps.Clone(current.Versions)
	bundle := s.fetch(again)
	if !bundle.Versions.Equal(current.Versions) {
		s.Errorf("versions were %v and are %v, though no value changed", current.Versions, bundle.Versions)
	}
	if !bundle.Unchanged {
		s.holds(bundle, values, nil)
	}

	// All that is not held and current is fetched whole.
	partly := s.request("a", "b")
	partly.Held.Versions = s.fetch(s.request("a")).Versions
	s.holds(s.fetch(partly), values, nil)
	values["b"] = s.put("b")["b"]
	s.holds(s.fetch(again), values, nil)
}
