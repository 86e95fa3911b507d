package sandbox

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"
)

// A State is what a process runs with, as the kernel tells it.
type State struct {
	User         int
	Capabilities string // effective, inheritable and permitted ones, as cap_to_text(3) writes them: "=" is none
	Bounds       string // those that executing a program could give, in hexadecimal
	NoNewPrivs   bool   // executing a program gives none
	Seccomp      string // off, strict or filter
	Landlock     string // version of what restricts files; off, or none if the kernel has not got it
	Dumpable     bool
	CoreLimit    uint64 // bytes of a core dump
	Umask        string
}

// Log returns the state as klog.InfoS takes it.
func (s State) Log() []any {
	return []any{
		"user", s.User, "capabilities", s.Capabilities, "bounds", s.Bounds, "noNewPrivs", s.NoNewPrivs, "seccomp", s.Seccomp,
		"landlock", s.Landlock, "dumpable", s.Dumpable, "coreLimit", s.CoreLimit, "umask", s.Umask,
	}
}

// now returns the state of this process.
func now(landlock string) (State, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return State{}, fmt.Errorf("read what the process runs with: %w", err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	s := State{
		User:         os.Geteuid(),
		Capabilities: cap.GetProc().String(),
		Bounds:       fields["CapBnd"],
		NoNewPrivs:   fields["NoNewPrivs"] == "1",
		Seccomp:      map[string]string{"0": "off", "1": "strict", "2": "filter"}[fields["Seccomp"]],
		Landlock:     landlock,
		Umask:        fields["Umask"],
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		return s, fmt.Errorf("read whether the process is dumpable: %w", err)
	}
	s.Dumpable = dumpable != 0
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		return s, fmt.Errorf("read the core dump limit: %w", err)
	}
	s.CoreLimit = limit.Cur
	return s, nil
}
