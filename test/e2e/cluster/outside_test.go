package cluster

import (
	"os"
	"runtime"
	"testing"
)

func TestARunIsSweptOnceItHasEndedAndNotBefore(t *testing.T) {
	l, running, err := newRun(layout{cache: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		runtime.GC() // closes files that nobody holds
	}
	if err := sweep(l); err != nil || !exists(l.run) {
		t.Fatalf("sweep beside a run: %v, the run's folder is there: %t", err, exists(l.run))
	}
	if err := running.Close(); err != nil {
		t.Fatal(err)
	}
	if err := sweep(l); err != nil || exists(l.run) {
		t.Errorf("sweep after a run: %v, the run's folder is there: %t", err, exists(l.run))
	}
	if _, err := os.Stat(l.runs()); err != nil {
		t.Error(err)
	}
}
