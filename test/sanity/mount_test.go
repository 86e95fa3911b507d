package sanity

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	csisanity "github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// A witness looks at the target after each call, which the suite does not.
type witness struct {
	file, canary string // what a published volume must hold

	mu                     sync.Mutex
	publishes, unpublishes int      // guarded by mu
	problems               []string // guarded by mu
}

// after is called when the driver has served a Node call.
func (w *witness) after(method string, request []byte) {
	var (
		publish   csi.NodePublishVolumeRequest
		unpublish csi.NodeUnpublishVolumeRequest
		err       error
	)
	w.mu.Lock()
	defer w.mu.Unlock()
	switch method {
	case csi.Node_NodePublishVolume_FullMethodName:
		w.publishes++
		if err = proto.Unmarshal(request, &publish); err == nil {
			err = w.published(publish.GetTargetPath())
		}
	case csi.Node_NodeUnpublishVolume_FullMethodName:
		w.unpublishes++
		if err = proto.Unmarshal(request, &unpublish); err == nil {
			err = gone(unpublish.GetTargetPath())
		}
	}
	if err != nil {
		w.problems = append(w.problems, fmt.Sprintf("after %s: %v", method, err))
	}
}

// published checks that target is exactly one memory file system with the secret.
func (w *witness) published(target string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(target, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", target, err)
	}
	mounts, err := mountsAt(target)
	switch {
	case err != nil:
		return err
	case fs.Type != unix.TMPFS_MAGIC || mounts != 1:
		return fmt.Errorf("%s: file system type %#x, %d mounts; want one tmpfs", target, fs.Type, mounts)
	}
	got, err := os.ReadFile(filepath.Join(target, w.file))
	if err != nil {
		return err
	}
	if string(got) != w.canary {
		return fmt.Errorf("%s: %s does not hold what the provider was given", target, w.file)
	}
	return nil
}

// gone checks that neither mount nor directory is left at target.
func gone(target string) error {
	if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is still there: %w", target, err)
	}
	return nil
}

// mountsAt returns the number of mounts at target.
func mountsAt(target string) (n int, err error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	for line := range bytes.Lines(table) {
		if fields := strings.Fields(string(line)); len(fields) > 4 && fields[4] == target {
			n++
		}
	}
	return n, err
}

// checkPath tells the suite what is at a target, and insists on its content.
func (w *witness) checkPath(target string) (csisanity.PathKind, error) {
	if gone(target) == nil {
		return csisanity.PathIsNotFound, nil
	}
	return csisanity.PathIsDir, w.published(target)
}

// removeParent removes the parent of a target, which must be empty: the suite
// ignores the error, the witness does not.
func (w *witness) removeParent(dir string) error {
	err := os.Remove(dir)
	if err != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.problems = append(w.problems, "after a spec: "+err.Error())
	}
	return err
}
