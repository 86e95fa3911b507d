package main

import (
	"strings"
	"testing"
)

func TestTallyCountsEachTestOnce(t *testing.T) {
	for _, c := range []struct {
		name, events, want string
		code               int
	}{
		{"nothing ran", ``, "0 passed, 0 failed, 0 skipped", 1},
		{"a pass", `run TestA|pass TestA|pass `, "1 passed, 0 failed, 0 skipped", 0},
		{"a skip fails the run", `run TestA|skip TestA|pass `, "0 passed, 0 failed, 1 skipped", 1},
		{"a parent is not counted beside its subtests", `run TestA|run TestA/b|run TestA/c|pass TestA/b|pass TestA/c|pass TestA|pass `, "2 passed, 0 failed, 0 skipped", 0},
		{"a failed subtest fails once", `run TestA|run TestA/b|run TestA/b/c|fail TestA/b/c|fail TestA/b|fail TestA|fail `, "0 passed, 1 failed, 0 skipped", 1},
		{"a parent that fails alone", `run TestA|run TestA/b|pass TestA/b|fail TestA|fail `, "1 passed, 1 failed, 0 skipped", 1},
		{"a package that fails without a test", `run TestA|pass TestA|fail `, "1 passed, 1 failed, 0 skipped", 1},
		{"a package without tests", `skip `, "0 passed, 0 failed, 0 skipped", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out, in strings.Builder
			for e := range strings.SplitSeq(c.events, "|") {
				action, name, _ := strings.Cut(e, " ")
				in.WriteString(`{"Action":"` + action + `","Package":"p","Test":"` + name + "\"}\n")
			}
			tally := newTally(&out)
			if err := tally.read(strings.NewReader(in.String())); err != nil {
				t.Fatal(err)
			}
			code := tally.close()
			lines := strings.Split(strings.TrimSpace(out.String()), "\n")
			if got := lines[len(lines)-1]; got != c.want || code != c.code {
				t.Errorf("closes with %q and code %d, want %q and %d", got, code, c.want, c.code)
			}
		})
	}
}

func TestFailuresAreShownWithTheirOutput(t *testing.T) {
	const events = `{"Action":"build-output","ImportPath":"q","Output":"x.go:1: no\n"}
{"Action":"fail","Package":"q","FailedBuild":"q"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"a_test.go:1: because\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Output":"exit status 1\n"}
{"Action":"fail","Package":"p"}
`
	var out strings.Builder
	if err := newTally(&out).read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	const want = "x.go:1: no\nFAIL\tq\t0.0s\na_test.go:1: because\nexit status 1\nFAIL\tp\t0.0s\n"
	if out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
}
