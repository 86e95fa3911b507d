package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// NoDumps keeps the memory of this process, and so every secret in it, out of
// core dumps and away from other processes of the same user. The resource
// limit stops dumps to files; the kernel ignores it for dumps that it pipes to
// a program, which being not dumpable stops.
//
// As an ordinary user, a process that did this cannot start a child in a
// user namespace with ID mappings: the child's /proc files belong to root
// until it executes a program.
func NoDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("set the core dump limit to zero: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("make the process not dumpable: %w", err)
	}
	return nil
}
