package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// readAs reads a file of the node as a user, who may not enter kubelet's folders
// and so gets the file's own as an open one.
func readAs(ctx context.Context, path string, uid, gid uint32) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	cmd := exec.CommandContext(ctx, "cat", "/proc/self/fd/3/"+filepath.Base(path))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	cmd.ExtraFiles = []*os.File{dir}
	return cmd.Run()
}
