package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestACgroupHasTheProcessFromItsFirstMoment(t *testing.T) {
	dir := t.TempDir() // stands for a folder of the kernel
	c := cgroup{dir, filepath.Join(dir, "memory.current")}
	if err := os.WriteFile(c.usage, []byte("4096\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	program, args := c.wrap("/bin/sh", []string{"-c", "echo pid $$; echo rest $1 $2", "sh", "a b", "c"})
	p, err := startProcess("wrapped", dir, program, args...)
	if err != nil {
		t.Fatal(err)
	}
	if <-p.ended; p.err != nil {
		t.Fatalf("the process ended with %v: %s", p.err, p.tail())
	}
	procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "pid " + strings.TrimSpace(string(procs)) + "\nrest a b c\n"; string(p.tail()) != want {
		t.Errorf("the program printed %q, want %q", p.tail(), want)
	}
	if n, err := c.memory(); n != 4096 || err != nil {
		t.Errorf("memory is %d, %v, want 4096", n, err)
	}
}

func TestWithoutACgroupNothingIsCountedOrWrapped(t *testing.T) {
	var none cgroup
	program, args := none.wrap("/bin/x", []string{"-a"})
	n, err := none.memory()
	if program != "/bin/x" || len(args) != 1 || n != 0 || err != nil || none.remove() != nil {
		t.Errorf("wrap = %s %q, memory = %d, %v", program, args, n, err)
	}
}
