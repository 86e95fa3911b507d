package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const (
	driverProgram   = "/keymount-driver"
	providerProgram = "/keymount-provider"
)

// processes returns the programs of the node's processes that run one of these,
// by their IDs, as they were a moment ago.
func processes(t testing.TB, programs ...string) map[int]string {
	t.Helper()
	folders, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	found := map[int]string{}
	for _, folder := range folders {
		command, _ := os.ReadFile(filepath.Join(folder, "cmdline")) // it may have ended
		program, rest, _ := strings.Cut(string(command), "\x00")
		if !slices.Contains(programs, program) || strings.HasPrefix(rest, "probe\x00") {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(folder))
		if err != nil {
			t.Fatal(err)
		}
		found[pid] = program
	}
	return found
}

// statusOf returns the lines of a process's status by their names.
func statusOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
	if err != nil {
		t.Fatal(err)
	}
	status := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		status[name] = strings.TrimSpace(value)
	}
	return status
}
