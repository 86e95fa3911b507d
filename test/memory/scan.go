// Package memory searches the memory of processes for secrets that they no
// longer need.
package memory

import (
	"bytes"
	"fmt"
	"os"
	"strings"
)

// Copies counts how often a text is in the memory that a process can write to.
// It takes the right to trace that process.
func Copies(pid int, text string) (count int, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return 0, err
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return 0, err
	}
	defer memory.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var access string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &access); err != nil {
			return 0, fmt.Errorf("%q: %w", line, err)
		}
		if access[1] == 'w' {
			count += within(memory, int64(from), int64(to), []byte(text))
		}
	}
	return count, nil
}

// within counts the text between two addresses. What is not there has none.
func within(memory *os.File, from, to int64, text []byte) (count int) {
	const step = 1 << 20
	buf := make([]byte, step+len(text)-1) // so that none is cut by the end of a step
	for at := from; at < to; at += step {
		n, _ := memory.ReadAt(buf[:min(int64(len(buf)), to-at)], at)
		count += bytes.Count(buf[:n], text)
	}
	return count
}
