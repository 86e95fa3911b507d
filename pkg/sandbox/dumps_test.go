package sandbox_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/keymount/keymount/pkg/sandbox"
)

// dumpsChild names the variable that makes TestNoDumps the child that forbids dumps of itself.
const dumpsChild = "KEYMOUNT_TEST_DUMPS_CHILD"

func TestNoDumps(t *testing.T) {
	if os.Getenv(dumpsChild) != "" {
		forbidDumps(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestNoDumps$")
	cmd.Env = append(os.Environ(), dumpsChild+"=1", "GOTRACEBACK=crash") // the runtime aborts, as after a fault
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("the child ended with %v, want a signal:\n%s", err, out)
	}
	status := exit.Sys().(syscall.WaitStatus)
	if status.Signal() != syscall.SIGABRT || status.CoreDump() {
		t.Errorf("the child: signal %v, core dumped %v; want SIGABRT without core:\n%s", status.Signal(), status.CoreDump(), out)
	}
	if want := "dumpable 0, core limit {0 0}, /proc/self readable"; !strings.Contains(string(out), want) {
		t.Errorf("the child printed %q, want %q", out, want)
	}
	if left, _ := os.ReadDir(cmd.Dir); len(left) > 0 {
		t.Errorf("the child left %v", left)
	}
}

// forbidDumps forbids dumps of this process, reads what the driver reads of its own
// /proc, and dies as a crash would.
func forbidDumps(t *testing.T) {
	if err := sandbox.NoDumps(); err != nil {
		t.Fatal(err)
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &limit); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"status", "mountinfo", "limits", "uid_map"} {
		if _, err := os.ReadFile("/proc/self/" + file); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.ReadDir("/proc/self/fd"); err != nil {
		t.Fatal(err)
	}
	fmt.Printf("dumpable %d, core limit {%d %d}, /proc/self readable\n", dumpable, limit.Cur, limit.Max)
	if err := unix.Kill(os.Getpid(), unix.SIGABRT); err != nil {
		t.Fatal(err)
	}
	select {}
}
