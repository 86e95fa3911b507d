package e2e

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keymount/keymount/pkg/audit"
)

// auditDir is where the driver writes down what it does, on the node.
const auditDir = "/var/lib/keymount-e2e/audit"

// auditIsWhole expects that all drivers of all scenarios, whatever became of
// them, have written one log, in which everything that was given out is.
func auditIsWhole(t *testing.T, s *suite) {
	ns := s.namespace(t)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": s.canary()}})
	s.apply(t, ns, class("c", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	s.remove(t, ns, "app")
	parts, err := filepath.Glob(filepath.Join(auditDir, "audit.jsonl.*"))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(parts)
	var text []byte
	for _, path := range append(parts, filepath.Join(auditDir, "audit.jsonl")) {
		part, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, part...)
	}
	if s.leaks(text, []byte(token)) {
		t.Error("the audit log has a secret")
	}
	kinds, fetched := map[audit.Kind]int{}, map[string]bool{}
	summary, err := audit.Verify(bytes.NewReader(text), func(e audit.Event) error {
		kinds[e.Event]++
		switch {
		case e.Event == audit.Fetch && e.Decision == audit.Allow:
			fetched[e.Volume] = true
		case e.Event == audit.Publish && e.Decision == audit.Allow && !fetched[e.Volume]:
			t.Errorf("event %d: volume %s of pod %v was published, and nothing says that it was fetched", e.Sequence, e.Volume, e.Pod)
		}
		if e.Lost != 0 {
			t.Errorf("event %d: %d events are lost", e.Sequence, e.Lost)
		}
		return nil
	})
	if err != nil || summary.First != 1 {
		t.Errorf("the audit log begins with event %d, and is not whole: %v", summary.First, err)
	}
	for _, kind := range []audit.Kind{audit.Start, audit.Fetch, audit.Publish, audit.Unpublish} {
		if kinds[kind] == 0 {
			t.Errorf("nothing says %s", kind)
		}
	}
	t.Logf("%d events: %v", summary.Lines, kinds)
}
