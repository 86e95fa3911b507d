package providertest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"strings"

	"github.com/keymount/keymount/pkg/provider"
)

// contentCases are about which files a bundle has.
func contentCases() []testCase {
	return []testCase{
		{"ReturnsTheExactBytes", always, returnsTheExactBytes},
		{"ManyObjectsOneBundle", always, manyObjectsOneBundle},
		{"OptionalMayBeMissing", canBeOptional, optionalMayBeMissing},
		{"PathsStayInside", always, pathsStayInside},
		{"DuplicatePathsAreInvalid", always, duplicatePathsAreInvalid},
		{"ModeIsTheRequests", always, modeIsTheRequests},
		{"ModeDefaultsAndOverrides", canHaveMode, modeDefaultsAndOverrides},
	}
}

func canBeOptional(b Backend) string { return limits(b).Optional }

func canHaveMode(b Backend) string { return limits(b).Mode }

func returnsTheExactBytes(s *suite) {
	megabyte := make([]byte, 1<<20)
	_, _ = rand.Read(megabyte) // never fails
	copy(megabyte, s.value("", ""))
	for i, c := range []struct {
		name  string
		value []byte
	}{
		{"text", s.value("", "")},
		{"empty", nil},
		{"NUL", s.value("\x00", "\x00\x00")},
		{"invalid UTF-8", s.value("\xff\xfe", "\xc3\x28\x80")},
		{"byte order mark", s.value("\xef\xbb\xbf", "")},
		{"trailing newline", s.value("", "\n")},
		{"trailing newlines of Windows", s.value("", "\r\n\r\n")},
		{"space around it", s.value(" \t", "  ")},
		{"JSON", s.value(`{"password": "`, `"}`)},
		{"quotes and escapes", s.value(`"\n'`, `'\"$(x)`)},
		{"1 MiB", megabyte},
	} {
		if why := limits(s.backend).storable(c.value); why != "" {
			if i == 0 {
				s.Fatalf("the backend cannot even store text: %s", why)
			}
			s.Logf("not applicable: %s: %s", c.name, why)
			continue
		}
		name := fmt.Sprintf("exact-%d", i)
		s.backend.Put(s, name, bytes.Clone(c.value))
		s.Logf("value: %s", c.name)
		s.holds(s.fetch(s.request(name)), map[string][]byte{name: c.value}, nil)
	}
}

func manyObjectsOneBundle(s *suite) {
	var objects []Object
	want := map[string][]byte{}
	for i := range 20 {
		o := Object{Name: fmt.Sprintf("many-%d", i), File: fmt.Sprintf("file-%d.txt", 19-i)}
		objects = append(objects, o)
		want[o.File] = s.put(o.Name)[o.Name]
	}
	s.holds(s.fetch(s.ask(objects...)), want, nil)
}

func optionalMayBeMissing(s *suite) {
	values := s.put("there")
	req := func() []Object { return []Object{{Name: "there"}, {Name: "absent", Optional: true}} }
	before := s.fetch(s.ask(req()...))
	s.holds(before, values, nil)

	values["absent"] = s.put("absent")["absent"]
	appeared := s.ask(req()...)
	appeared.Held.Versions = before.Versions
	s.holds(s.fetch(appeared), values, nil)
}

// pathsStayInside accepts a refusal, or a path that was made harmless; that
// every bundle's paths are harmless is checked at each fetch.
func pathsStayInside(s *suite) {
	s.put("inside")
	for _, file := range []string{
		"..", "../escape", "../../escape", "a/..", "a/../../escape", "a/../b", "/absolute", ".", "./", "/", "a//b", "a/",
		"..data", "..data/x", "a/..data", "a\x00b", "a\nb", strings.Repeat("x", 256), strings.Repeat("x/", 2048) + "x",
	} {
		if _, err := s.try(s.Context(), s.ask(Object{Name: "inside", File: file})); err != nil {
			s.because(err, provider.ErrInvalid)
		}
	}
}

func duplicatePathsAreInvalid(s *suite) {
	s.put("one", "two")
	_ = s.fails(s.ask(Object{Name: "one", File: "same"}, Object{Name: "two", File: "same"}), provider.ErrInvalid)
	// A provider may flatten paths, and then these are two files.
	if _, err := s.try(s.Context(), s.ask(Object{Name: "one", File: "same"}, Object{Name: "two", File: "same/below"})); err != nil {
		s.because(err, provider.ErrInvalid)
	}
}

func modeIsTheRequests(s *suite) {
	values := s.put("plain")
	for _, mode := range []fs.FileMode{0o644, 0o440, 0o400} {
		req := s.request("plain")
		req.Mode = mode
		s.holds(s.fetch(req), values, map[string]fs.FileMode{"plain": mode})
	}
}

func modeDefaultsAndOverrides(s *suite) {
	values := s.put("plain", "strict", "open")
	req := s.ask(Object{Name: "plain"}, Object{Name: "strict", Mode: 0o400}, Object{Name: "open", Mode: 0o755})
	req.Mode = 0o640
	s.holds(s.fetch(req), values, map[string]fs.FileMode{"plain": 0o640, "strict": 0o400, "open": 0o755})
}
