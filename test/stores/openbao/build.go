package openbao

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	server  = "github.com/openbao/openbao" // the package of the server's main
	version = server + "/version"          // where the linker puts what the server says of itself
	own     = "github.com/keymount/keymount/test/stores"
)

// arguments are those of the go command, but for the path of the result. There
// is no web interface without the build tag "ui".
var arguments = []string{
	"build", "-mod=readonly", "-buildvcs=false", "-trimpath",
	"-ldflags=-s -w -X " + version + ".fullVersion=2.4.0 -X " + version + ".GitCommit=f9407a27fbee",
}

// Binary returns the path of the program bao. The first call on a machine
// builds it, from the Go module proxy alone, which takes ten minutes of CPU
// time; others find it in the user's cache, which XDG_CACHE_HOME can move.
//
// It runs the go command in the current folder, whose module must be this one
// or require it.
func Binary(ctx context.Context) (string, error) {
	source, err := sourceDir(ctx)
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	key, err := digest(filepath.Join(source, "go.mod"), filepath.Join(source, "go.sum"))
	if err != nil {
		return "", err
	}
	dir := filepath.Join(cache, "keymount-stores", "openbao-"+key)
	path := filepath.Join(dir, "bao")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	unlock, err := lock(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return path, err // another process built it
	}
	fmt.Fprintln(os.Stderr, "build OpenBao: the first build takes about 10 minutes of CPU time")
	fresh := path + ".new"
	if _, err := goCommand(ctx, source, append(arguments, "-o="+fresh, server)...); err != nil {
		return "", err
	}
	return path, os.Rename(fresh, path)
}

// sourceDir returns the folder of the module that OpenBao is built in.
func sourceDir(ctx context.Context) (string, error) {
	dir, err := goCommand(ctx, ".", "list", "-m", "-f={{.Dir}}", own)
	return filepath.Join(dir, "openbao", "source"), err
}

// digest tells one state of the build from another.
func digest(files ...string) (string, error) {
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", arguments)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%d\n%s", len(text), text)
	}
	return hex.EncodeToString(sum.Sum(nil)[:8]), nil
}

// lock makes the folder and keeps other processes from building in it.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// goCommand runs the go command in a folder, and returns what it prints.
func goCommand(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=")
	var failure bytes.Buffer
	cmd.Stderr = &failure
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("go %s in %s: %w\n%s", strings.Join(args, " "), dir, err, &failure)
	}
	return strings.TrimSpace(string(out)), nil
}
