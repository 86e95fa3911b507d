package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzResume gives arbitrary bytes as the log that an earlier driver left: the
// lines of it stay, and the log goes on from the last of them; or there is an
// error that shows nothing of them.
func FuzzResume(f *testing.F) {
	line := `{"seq":7,"time":"2026-01-01T00:00:00Z","node":"n","event":"start","decision":"allow","prev":"` + zeros + `"}`
	for _, seed := range []string{"", "\n", "x", "x\n", "{}\n", "null\n", line, line + "\n", line + "\n" + line[:20], "canary-5b7e\n" + line + "\n", line + "\ncanary-5b7e\n", `{"seq":"canary-5b7e"}` + "\n", `{"seq":9223372036854775806}` + "\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, left []byte) {
		path := filepath.Join(t.TempDir(), "audit.jsonl")
		if err := os.WriteFile(path, left, 0o600); err != nil {
			t.Fatal(err)
		}
		whole := left[:bytes.LastIndexByte(left, '\n')+1]
		last := bytes.TrimSuffix(whole, []byte("\n"))
		last = last[bytes.LastIndexByte(last, '\n')+1:]
		sink, err := openFile(path, maxFile)
		if err != nil {
			t.Fatal(err)
		}
		log, err := New(sink, Options{Node: "n"})
		if err == nil {
			err = log.Close()
		} else if err.Error() != "the last line of the audit log is no event: move the file away" {
			t.Errorf("the error is %v", err)
		}
		text, failed := os.ReadFile(path)
		if failed != nil || !bytes.HasPrefix(text, whole) {
			t.Fatalf("%q became %q, %v", left, text, failed)
		}
		if err != nil {
			return
		}
		event, err := parse(bytes.TrimSuffix(text[len(whole):], []byte("\n")))
		want := zeros
		if len(last) > 0 {
			want = hash(last)
		}
		if err != nil || event.Event != Start || event.Previous != want {
			t.Errorf("after %q comes %+v, %v; want a start after %s", last, event, err, want)
		}
	})
}
