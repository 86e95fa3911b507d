// Package floor does what mounting secrets cannot do without: the bare system
// calls of each operation, made one after the other with nothing around them,
// and a gRPC server that does nothing. Whatever a driver takes longer is its own.
package floor

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// Command as the first argument makes a program call Serve with the second.
const Command = "serve-bare-grpc"

// FileSize is the size of every secret.
const FileSize = 1 << 10

type bareServer struct {
	csi.UnimplementedIdentityServer
}

func (bareServer) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{}, nil
}

// Serve serves the CSI Identity service on a socket until a signal ends it.
func Serve(socket string) error {
	lis, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	s := grpc.NewServer()
	csi.RegisterIdentityServer(s, bareServer{})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	go func() { <-ctx.Done(); s.Stop() }()
	return s.Serve(lis)
}

// Publish mounts a volume with that many files.
func Publish(target string, files int) error {
	if err := os.Mkdir(target, 0o750); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "size=16m,nr_inodes=8192,mode=0755"); err != nil {
		return err
	}
	if err := generation(target, "..1", files); err != nil {
		return err
	}
	for i := range files {
		name := fmt.Sprintf("secret-%02d", i)
		if err := unix.Symlink("..data/"+name, filepath.Join(target, name)); err != nil {
			return err
		}
	}
	return nil
}

// generation writes a generation and swaps it in.
func generation(target, name string, files int) error {
	dir := filepath.Join(target, name)
	if err := unix.Mkdir(dir, 0o755); err != nil {
		return err
	}
	content := bytes.Repeat([]byte{name[2]}, FileSize)
	for i := range files {
		fd, err := unix.Open(filepath.Join(dir, fmt.Sprintf("secret-%02d", i)), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		if _, err := unix.Write(fd, content); err != nil {
			return err
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	next := filepath.Join(target, "..data_tmp")
	if err := unix.Symlink(name, next); err != nil {
		return err
	}
	return unix.Rename(next, filepath.Join(target, "..data"))
}

// Rotate replaces the files of a volume that was just published.
func Rotate(target string, files int) error {
	if err := generation(target, "..2", files); err != nil {
		return err
	}
	old := filepath.Join(target, "..1")
	for i := range files {
		if err := unix.Unlink(filepath.Join(old, fmt.Sprintf("secret-%02d", i))); err != nil {
			return err
		}
	}
	return unix.Rmdir(old)
}

// Unpublish removes a volume.
func Unpublish(target string) error {
	if err := unix.Unmount(target, 0); err != nil {
		return err
	}
	return unix.Rmdir(target)
}
