package publish_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// lookUp returns how to read the file that has this name now, whatever becomes
// of it. Nobody has the file open meanwhile.
func (w *world) lookUp(name string) (read func() []byte) {
	w.t.Helper()
	file, err := unix.Open(filepath.Join(w.target, name), unix.O_PATH, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = unix.Close(file) })
	return func() []byte {
		text, err := os.ReadFile(fmt.Sprintf("/proc/self/fd/%d", file))
		if err != nil {
			w.t.Error(err)
		}
		return text
	}
}

func TestOldGenerationsAreOverwrittenOnceNobodyCanReadThem(t *testing.T) {
	w := newWorld(t)
	w.mustPublish()
	old := w.lookUp("password")
	first := old()
	w.store.Put("password", []byte("second"))
	w.makeDue()
	if _, err := w.publish(); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(old(), first) {
		t.Error("who is about to open the old file reads something else")
	}
	end := time.After(20 * time.Second)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !bytes.Equal(old(), make([]byte, len(first))) {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("the old file still holds %q", old())
		}
	}
}

func TestAVolumeThatIsUnpublishedIsOverwrittenAtOnce(t *testing.T) {
	w := newWorld(t)
	w.mustPublish()
	before := w.lookUp("password")
	w.store.Put("password", []byte("second"))
	w.makeDue()
	if _, err := w.publish(); err != nil {
		t.Fatal(err)
	}
	last := w.lookUp("password")
	if err := w.unpublish(); err != nil {
		t.Fatal(err)
	}
	for name, read := range map[string]func() []byte{"the last": last, "the one before": before} {
		if text := read(); len(text) == 0 || !bytes.Equal(text, make([]byte, len(text))) {
			t.Errorf("%s file still holds %q", name, text)
		}
	}
}
