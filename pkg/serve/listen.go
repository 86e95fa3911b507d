package serve

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrEndpoint: the endpoint cannot be listened on until it is written differently.
var ErrEndpoint = errors.New("invalid endpoint")

// maxSocketPath is the longest path that fits into the kernel's sockaddr_un
// with its closing NUL.
const maxSocketPath = 107

// probeTimeout bounds the question whether somebody answers on a socket file.
const probeTimeout = time.Second

// ListenOptions say who may connect to a unix socket.
type ListenOptions struct {
	Mode fs.FileMode // of the socket file; zero means 0600
	Dir  fs.FileMode // of its directory if that has to be created; zero means 0750
}

func (o *ListenOptions) mode() fs.FileMode {
	if o == nil || o.Mode == 0 {
		return 0o600
	}
	return o.Mode.Perm()
}

func (o *ListenOptions) dir() fs.FileMode {
	if o == nil || o.Dir == 0 {
		return 0o750
	}
	return o.Dir.Perm()
}

// Listen listens on an endpoint: unix:///abs/path, unix:path (as written),
// unix://path (taken as /path, as the upstream driver does), or
// tcp://host:port, which is open to whoever reaches the port. Any other
// endpoint is an error that wraps ErrEndpoint.
//
// A socket file on which nobody answers is replaced; one on which somebody
// does, or a file of another kind, is an error and stays. Closing the listener
// removes the socket file.
func Listen(endpoint string, opts *ListenOptions) (net.Listener, error) {
	network, address, err := parseEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	if network == "tcp" {
		return net.Listen(network, address)
	}
	if err := os.MkdirAll(filepath.Dir(address), opts.dir()); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", endpoint, err)
	}
	if err := removeStale(address); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", endpoint, err)
	}
	return listenUnix(address, opts.mode())
}

// parseEndpoint returns the network and the address that package net knows.
func parseEndpoint(endpoint string) (network, address string, err error) {
	network, rest, _ := strings.Cut(endpoint, ":")
	switch network {
	case "unix":
		address, err = socketPath(rest)
	case "tcp":
		address, err = hostPort(rest)
	default:
		err = errors.New("want unix:///path/of.sock or tcp://host:port")
	}
	if err != nil {
		return "", "", fmt.Errorf("endpoint %q: %w: %w", endpoint, err, ErrEndpoint)
	}
	return network, address, nil
}

// hostPort returns the address in what follows "tcp:".
func hostPort(rest string) (string, error) {
	address, slashes := strings.CutPrefix(rest, "//")
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" || !slashes {
		return "", errors.New("want tcp://host:port")
	}
	return address, nil
}

// socketPath returns the path in what follows "unix:".
func socketPath(rest string) (string, error) {
	path, slashes := strings.CutPrefix(rest, "//")
	if slashes && path != "" && !filepath.IsAbs(path) {
		path = "/" + path
	}
	switch {
	case path == "" || strings.HasSuffix(path, "/"):
		return "", errors.New("the path of the socket is missing, want unix:///path/of.sock")
	case strings.ContainsAny(path[:1], "@\x00"):
		return "", errors.New("abstract sockets have no permissions, want unix:///path/of.sock")
	case strings.ContainsRune(path, 0):
		return "", errors.New("the path of the socket contains a NUL byte")
	case len(path) > maxSocketPath:
		return "", fmt.Errorf("the path of the socket has %d bytes, the kernel takes at most %d: choose a shorter directory", len(path), maxSocketPath)
	}
	return path, nil
}

// removeStale removes a socket file that a process left behind.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is no socket: remove it or choose another path", path)
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout)
	switch {
	case err == nil:
		_ = conn.Close()
		return fmt.Errorf("another process listens on %s: stop it or choose another path", path)
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	default: // a full backlog, no permission: somebody may well be there
		return fmt.Errorf("another process may listen on %s: %w", path, err)
	}
}

// listenUnix binds a socket that has no more than mode at any moment: the
// kernel takes the file's mode from the socket's, less the umask.
func listenUnix(path string, mode fs.FileMode) (net.Listener, error) {
	config := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var chmodErr error
		if err := raw.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), uint32(mode)) }); err != nil {
			return err
		}
		return chmodErr
	}}
	listener, err := config.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil { // what the umask took
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}
