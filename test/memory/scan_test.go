package memory

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
)

// copies counts how often a text is in the memory that a process can write to.
func copies(t *testing.T, pid int, text string) (count int) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var access string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &access); err != nil {
			t.Fatal(err)
		}
		if access[1] == 'w' {
			count += within(memory, int64(from), int64(to), []byte(text))
		}
	}
	return count
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
