package driver_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/audit"
)

// smallDisk mounts a file system of 64 KiB until the test ends, and the driver
// has stopped.
func smallDisk(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fill takes all the room that a disk has, and returns how to free it.
func fill(t *testing.T, dir string) (free func()) {
	t.Helper()
	path := filepath.Join(dir, "ballast")
	err := os.WriteFile(path, make([]byte, 1<<20), 0o600)
	if err == nil {
		t.Fatal("a megabyte fits")
	}
	return func() {
		t.Helper()
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

func TestAFullDiskStopsPublishesUntilThereIsRoom(t *testing.T) {
	disk := smallDisk(t)
	r := prepareRig(t)
	r.config.AuditLog = filepath.Join(disk, "audit.jsonl")
	r.start()
	r.mustPublish("before")
	for range 3 {
		free := fill(t, disk)
		var err error
		failed := 0
		for i := 0; i < 100 && failed < 3; i++ { // the last block has room for some lines
			if err = r.publish("late"); err != nil {
				failed++
			} else if err := r.unpublish("late"); err != nil {
				t.Fatal(err)
			}
		}
		if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the audit log cannot be written") || !strings.Contains(err.Error(), "no space left on device") {
			t.Errorf("publish on a full disk = %v", err)
		}
		r.becomes("before", "first")
		if _, err := os.Lstat(r.target("late")); !os.IsNotExist(err) {
			t.Errorf("a volume is left: %v", err)
		}
		if err := r.unpublish("late"); err != nil { // what is not given out needs no room
			t.Errorf("unpublish on a full disk = %v", err)
		}
		free()
		r.mustPublish("late")
		r.becomes("late", "first")
		if err := r.unpublish("late"); err != nil {
			t.Error(err)
		}
	}
	if err := r.unpublish("before"); err != nil {
		t.Error(err)
	}
	r.stop()
	lost, fetched := int64(0), 0
	for _, e := range written(t, r.config.AuditLog) { // which looks at the chain, too
		lost += e.Lost
		if e.Event == audit.Fetch && e.Volume == "late" && len(e.Files) > 0 {
			fetched++
		}
	}
	if lost == 0 || fetched < 3 {
		t.Errorf("%d events are told of as lost, and %d fetches are written", lost, fetched)
	}
}

// A driver that does not start cannot unmount what its node's pods leave.
func TestADriverStartsOnAFullDiskAndGivesNothingOut(t *testing.T) {
	disk := smallDisk(t)
	free := fill(t, disk)
	r := prepareRig(t)
	r.config.AuditLog = filepath.Join(disk, "audit.jsonl")
	r.start()
	if err := r.publish("v"); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "the audit log cannot be written") {
		t.Errorf("publish on a full disk = %v", err)
	}
	if err := r.unpublish("v"); err != nil {
		t.Errorf("unpublish on a full disk = %v", err)
	}
	free()
	r.mustPublish("v")
	if err := r.unpublish("v"); err != nil {
		t.Error(err)
	}
	r.stop()
	if events := written(t, r.config.AuditLog); len(events) < 3 || events[0].Lost == 0 {
		t.Errorf("there are %d events, and the first does not tell of those that are missing", len(events))
	}
}
