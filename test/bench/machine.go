package main

import (
	"os"
	"runtime"
	"strings"
)

// A machine is where everything was measured.
type machine struct {
	CPUs                   int
	Processor, Arch, Linux string
	Memory                 int64
}

func thisMachine() machine {
	m := machine{CPUs: runtime.NumCPU(), Arch: runtime.GOARCH, Processor: "an unknown processor", Linux: "of an unknown release"}
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				m.Processor = strings.TrimSpace(value)
				break
			}
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Linux = strings.TrimSpace(string(text))
	}
	if text, err := os.ReadFile("/proc/meminfo"); err == nil {
		m.Memory, _ = kilobytes(text, "MemTotal:") // 0 is not told
	}
	return m
}
