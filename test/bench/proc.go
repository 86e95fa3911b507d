package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A memory is what a process occupies, in bytes. PSS counts what it shares
// with others in part; it is 0 where the kernel does not tell. Anon is the part of
// RSS that is not the program's own text, which the kernel can drop and read
// again. Cgroup is all that is counted for its cgroup, or 0.
type memory struct{ RSS, PSS, Anon, Cgroup int64 }

func (m memory) plus(other memory) memory {
	return memory{m.RSS + other.RSS, m.PSS + other.PSS, m.Anon + other.Anon, m.Cgroup + other.Cgroup}
}

func memoryOf(p *process) (m memory, err error) {
	dir := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return m, err
	}
	if m.RSS, err = kilobytes(status, "VmRSS:"); err != nil {
		return m, fmt.Errorf("%s: %w", p.name, err)
	}
	if m.Anon, err = kilobytes(status, "RssAnon:"); err != nil {
		return m, fmt.Errorf("%s: %w", p.name, err)
	}
	if rollup, err := os.ReadFile(dir + "smaps_rollup"); err == nil {
		m.PSS, err = kilobytes(rollup, "Pss:")
		return m, err
	}
	return m, nil
}

// kilobytes returns the value of a line such as "VmRSS:  123 kB".
func kilobytes(text []byte, name string) (int64, error) {
	for line := range bytes.Lines(text) {
		if fields := strings.Fields(string(line)); len(fields) == 3 && fields[0] == name {
			n, err := strconv.ParseInt(fields[1], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("the kernel does not tell %s", name)
}

// cpuOf returns the time of processors that a process has used, and those that
// it started and waited for.
func cpuOf(p *process) (time.Duration, error) {
	pid := p.cmd.Process.Pid
	var own unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &own); err != nil { // clock_getcpuclockid(3)
		return 0, fmt.Errorf("%s: read its clock: %w", p.name, err)
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	children, err := childrenTime(string(text))
	return time.Duration(own.Nano()) + children, err
}

// childrenTime reads fields 16 and 17 of /proc/PID/stat, which count hundredths
// of a second on every Linux.
func childrenTime(stat string) (total time.Duration, err error) {
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:]) // the name may have spaces
	if len(fields) < 15 {
		return 0, fmt.Errorf("not a line of /proc/PID/stat: %q", stat)
	}
	for _, field := range fields[13:15] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		total += time.Duration(n) * time.Second / 100
	}
	return total, nil
}
