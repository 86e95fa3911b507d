package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const head = "package app\n\nimport \"testing\"\n\n"

func TestEveryTargetRunsAndAFailureFails(t *testing.T) {
	good := "func FuzzGood(f *testing.F) { f.Fuzz(func(t *testing.T, text string) {}) }\n"
	bad := "func FuzzBad(f *testing.F) {\n\tf.Add(\"seed\")\n\tf.Fuzz(func(t *testing.T, text string) { t.Error(\"found it\") })\n}\n"
	for _, c := range []struct {
		name  string
		tests map[string]string
		want  []string
		code  int
	}{
		{"one that holds", map[string]string{"a_test.go": head + good}, []string{"ok\t", "FuzzGood\t", "execs", "\n1 passed, 0 failed, 0 skipped\n"}, 0},
		{"one that does not, before one that does", map[string]string{"a_test.go": head + bad, "b/b_test.go": head + good}, []string{"found it", "FAIL\t", "FuzzBad\t", "\n1 passed, 1 failed, 0 skipped\n"}, 1},
		{"one that does not compile", map[string]string{"a_test.go": head + "func FuzzBad(f *testing.F) { none() }\n"}, []string{"undefined: none", "\n0 passed, 1 failed, 0 skipped\n"}, 1},
		{"none", map[string]string{"a_test.go": "package app\n"}, []string{"0 passed, 0 failed, 0 skipped\n"}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			r := &runner{out: &out, budget: "10x"}
			targets, err := find(module(t, c.tests))
			if err != nil {
				t.Fatal(err)
			}
			r.run(targets)
			code := r.close()
			for _, text := range c.want {
				if !strings.Contains(out.String(), text) {
					t.Errorf("it does not print %q", text)
				}
			}
			if code != c.code || t.Failed() {
				t.Errorf("code %d, want %d; it printed:\n%s", code, c.code, out.String())
			}
		})
	}
}

func TestTargetsAreThoseOfTheModule(t *testing.T) {
	dir := module(t, map[string]string{
		"a/x_test.go":           head + "func FuzzOne(f *testing.F) {}\n\nfunc FuzzTwo(f *testing.F) {}\n",
		"a/x.go":                "package app\n\nfunc FuzzNone() {}\n",
		"b/y_test.go":           head + "// FuzzNone is no function.\nfunc helper() {}\n\nfunc FuzzThree(f *testing.F) {}\n",
		"testdata/x_test.go":    head + "func FuzzNone(f *testing.F) {}\n",
		"other/go.mod":          "module example.org/other\n",
		"other/in/deep_test.go": head + "func FuzzNone(f *testing.F) {}\n",
	})
	targets, err := find(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("[%[1]s/a FuzzOne %[1]s/a FuzzTwo %[1]s/b FuzzThree]", dir)
	if got := fmt.Sprint(targets); got != want {
		t.Errorf("find = %s, want %s", got, want)
	}
}

func TestTheLastCountOfInputsCounts(t *testing.T) {
	if got := execs([]byte("fuzz: elapsed: 0s, execs: 3 (1/sec)\nfuzz: elapsed: 3s, execs: 4567 (9/sec), new interesting: 1\nPASS\n")); got != "4567" {
		t.Errorf("execs = %s, want 4567", got)
	}
	if got := execs(nil); got != "0" {
		t.Errorf("execs of nothing = %s, want 0", got)
	}
}

func TestTheEndOfTheTimeIsNoFailure(t *testing.T) {
	for text, want := range map[string]bool{
		"fuzz: elapsed: 5s, execs: 9 (1/sec)\n--- FAIL: FuzzX (5.11s)\n    context deadline exceeded\nFAIL\nexit status 1\n":                                                     true,
		"--- FAIL: FuzzX (5.11s)\n    --- FAIL: FuzzX (0.00s)\n        x_test.go:1: context deadline exceeded\n    \n    Failing input written to testdata/fuzz/FuzzX/1\nFAIL\n": false,
		"--- FAIL: FuzzX (5.11s)\n    fuzzing process hung or terminated unexpectedly: exit status 2\nFAIL\n":                                                                    false,
		"panic: context deadline exceeded\nFAIL\n": false,
	} {
		if got := late.MatchString(text); got != want {
			t.Errorf("the end of the time in %q: %v, want %v", text, got, want)
		}
	}
}

// module returns the folder of a module with files.
func module(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	content["go.mod"] = "module example.org/app\n\ngo 1.26\n"
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
