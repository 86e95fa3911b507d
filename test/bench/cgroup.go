package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A cgroup counts all memory that a process causes: its own, the files that it
// writes into volumes, and what the kernel needs for their mounts. The zero
// cgroup counts nothing.
type cgroup struct{ dir, usage string }

// newCgroup returns a new one, or the zero cgroup where this user may not have any.
func newCgroup(name string) cgroup {
	for top, usage := range map[string]string{"/sys/fs/cgroup": "memory.current", "/sys/fs/cgroup/memory": "memory.usage_in_bytes"} {
		dir := filepath.Join(top, fmt.Sprintf("keymount-bench-%d-%s", os.Getpid(), name))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		c := cgroup{dir, filepath.Join(dir, usage)}
		if _, err := os.Stat(c.usage); err == nil {
			return c
		}
		_ = c.remove() // one of another kind
	}
	return cgroup{}
}

// wrap returns the command that runs a program in the cgroup from its first moment.
func (c cgroup) wrap(program string, args []string) (string, []string) {
	if c.dir == "" {
		return program, args
	}
	return "/bin/sh", append([]string{"-c", `echo $$ >"$0" && exec "$@"`, filepath.Join(c.dir, "cgroup.procs"), program}, args...)
}

// memory returns how many bytes are counted now; 0 is not told.
func (c cgroup) memory() (int64, error) {
	if c.dir == "" {
		return 0, nil
	}
	text, err := os.ReadFile(c.usage)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// remove removes the cgroup once its process has ended. The kernel may need a moment.
func (c cgroup) remove() (err error) {
	if c.dir == "" {
		return nil
	}
	for range 100 {
		if err = os.Remove(c.dir); err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}
