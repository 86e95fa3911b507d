package node

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/keymount/keymount/pkg/volume"
)

// checkTarget refuses a target that is not kubelet's: one that is not below its
// folder, or that a symbolic link leads out of it.
func (s *Server) checkTarget(id volume.ID, target string) error {
	if s.Root == "" {
		return nil
	}
	below, is := strings.CutPrefix(target, s.Root+"/")
	if !is {
		return fmt.Errorf("target path %q is not below %s: --kubelet-root must be kubelet's --root-dir", target, s.Root)
	}
	if s.Volumes != nil {
		if rec, known := s.Volumes.Get(id); known && rec.Target == target {
			return nil // it was looked at when it was mounted
		}
	}
	root, err := unix.Open(s.Root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil // so nothing is there, and nothing leads out of it
	}
	defer unix.Close(root)
	parent, err := unix.Openat2(root, filepath.Dir(below), &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH,
	})
	switch {
	case err == nil:
		return unix.Close(parent)
	case errors.Is(err, unix.ELOOP):
		return fmt.Errorf("target path %q leads through a symbolic link below %s", target, s.Root)
	default: // it is yet to be made, or this kernel cannot tell (before 5.6)
		return nil
	}
}
