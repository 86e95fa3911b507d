// Package sandbox lets a process give up for good what it does not need, so
// that whoever takes it over gains little: capabilities, system calls, files,
// core dumps. It then says what the process runs with, as the kernel tells it.
//
// Everything holds for all threads and for every process that they start, and
// nothing of it can be taken back.
package sandbox

import (
	"fmt"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// A Policy says what a process keeps.
type Policy struct {
	// Capabilities that the process keeps, of those that it has; none by
	// default, which a process of user 0 cannot get back either.
	Capabilities []cap.Value
	// Calls are the system calls that it may make, in the format of
	// containers' seccomp profiles: Driver or Provider.
	Calls Profile
	// Files that it may use; nil leaves all to it. It takes a kernel with
	// Landlock (5.13), and holds as far as that goes.
	Files *Files
}

// Enter makes the policy hold and returns what the process runs with then.
// Without a policy it does no more than forbid dumps, and files that others may
// read by default. After an error, part of it may hold: the process should end.
func Enter(p *Policy) (State, error) {
	unix.Umask(0o077) // whoever makes a file for others to see says so
	if err := NoDumps(); err != nil {
		return State{}, err
	}
	if p == nil {
		return now("off")
	}
	landlock, err := p.Files.restrict()
	if err != nil {
		return State{}, fmt.Errorf("restrict the process to its files: %w", err)
	}
	if err := keep(p.Capabilities); err != nil {
		return State{}, fmt.Errorf("give up capabilities: %w", err)
	}
	if err := p.Calls.load(); err != nil {
		return State{}, fmt.Errorf("restrict system calls: %w", err)
	}
	return now(landlock)
}
