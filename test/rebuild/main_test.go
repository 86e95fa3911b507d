package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestADifferenceBetweenTwoBuildsIsFound(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second map[string]string
		want          string
	}{
		{"the same", map[string]string{"a": "1", "b": "2"}, map[string]string{"a": "1", "b": "2"}, ""},
		{"another byte", map[string]string{"a": "1", "b": "2"}, map[string]string{"a": "1", "b": "3"}, "b is 1 bytes in one build and 1 in the other, and not the same"},
		{"a file less", map[string]string{"a": "1", "b": "2"}, map[string]string{"a": "1"}, "one build gave [a b], the other [a]"},
		{"a file more", map[string]string{"a": "1"}, map[string]string{"a": "1", "b": "2"}, "one build gave [a], the other [a b]"},
		{"nothing", nil, nil, "nothing was built"},
	} {
		t.Run(c.name, func(t *testing.T) {
			same, err := compare(folder(t, c.first), folder(t, c.second))
			if got := fmt.Sprint(err); (err != nil) != (c.want != "") || err != nil && got != c.want {
				t.Errorf("compare = %v, want %q", err, c.want)
			}
			if err == nil && strings.Count(same, "\n") != len(c.first) {
				t.Errorf("compare tells of %q, want %d files", same, len(c.first))
			}
		})
	}
}

func folder(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
