package userns

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// probe as the first argument makes this binary a program that calls Reexec;
// the second names what it does then.
const probe = "-userns-probe"

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == probe {
		os.Exit(program(os.Args[2]))
	}
	os.Exit(m.Run())
}

func program(do string) int {
	if do == "forbidden" { // root in a user namespace may set its limits
		if err := os.WriteFile("/proc/sys/user/max_mnt_namespaces", []byte("0"), 0); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	code, done, err := Reexec()
	switch {
	case err != nil:
		fmt.Println("forbidden:", errors.Is(err, ErrForbidden))
		return 3
	case done:
		return code
	}
	switch do {
	case "show":
		in, _ := io.ReadAll(os.Stdin)
		fmt.Printf("uid %d, may mount %v, marked %v, args %q, in %q\n", os.Getuid(), MayMount(), strings.HasPrefix(os.Args[0], marker), os.Args[2:], in)
		fmt.Fprintln(os.Stderr, "on standard error")
		return 42
	case "mount":
		fmt.Println(os.WriteFile(os.Args[3]+"/below", nil, 0), unix.Mount("tmpfs", os.Args[3], "tmpfs", 0, ""), os.WriteFile(os.Args[3]+"/hidden", nil, 0))
	case "wait":
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
		fmt.Println("ready")
		fmt.Println("got", <-signals)
		return 7
	case "die":
		_ = syscall.Kill(os.Getpid(), syscall.SIGTERM)
		select {}
	}
	return 0
}

func start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return exec.Command(os.Args[0], append([]string{probe}, args...)...)
}

func TestTheSecondProcessIsRootAndHasTheSameFilesAndArguments(t *testing.T) {
	cmd := start(t, "show", "more", "-arguments")
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("typed"), &stdout, &stderr
	_ = cmd.Run()
	want := "uid 0, may mount true, marked false, args [\"show\" \"more\" \"-arguments\"], in \"typed\"\n"
	if diff := cmp.Diff([]any{42, want, "on standard error\n"}, []any{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}); diff != "" {
		t.Errorf("exit code and output (-want +got):\n%s", diff)
	}
}

func TestMountsStayInside(t *testing.T) {
	dir := t.TempDir()
	out, err := start(t, "mount", dir).CombinedOutput()
	if string(out) != "<nil> <nil> <nil>\n" || err != nil {
		t.Fatalf("the program: %s, %v", out, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != "below" {
		t.Errorf("outside, the directory holds %v, %v", entries, err)
	}
}

func TestSignalsReachTheSecondProcess(t *testing.T) {
	for _, sent := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		cmd := start(t, "wait")
		lines := startReady(t, cmd)
		if err := cmd.Process.Signal(sent); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(lines)
		if want := fmt.Sprintf("got %v\n", sent); string(rest) != want || err != nil {
			t.Errorf("%v: the program printed %q, %v, want %q", sent, rest, err, want)
		}
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 7 {
			t.Errorf("%v: exit code %d, want 7", sent, code)
		}
	}
}

func TestTheSecondProcessDiesWithTheFirst(t *testing.T) {
	cmd := start(t, "wait")
	lines := startReady(t, cmd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The pipe ends when nobody has it any more.
	if rest, err := io.ReadAll(lines); len(rest) > 0 || err != nil {
		t.Errorf("the program printed %q, %v", rest, err)
	}
	_ = cmd.Wait()
}

func startReady(t *testing.T, cmd *exec.Cmd) *bufio.Reader {
	t.Helper()
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(pipe)
	if line, err := lines.ReadString('\n'); line != "ready\n" {
		t.Fatalf("the program printed %q, %v", line, err)
	}
	return lines
}

func TestADeathBySignalIsAnExitCode(t *testing.T) {
	cmd := start(t, "die")
	_ = cmd.Run()
	if code, want := cmd.ProcessState.ExitCode(), 128+int(syscall.SIGTERM); code != want {
		t.Errorf("exit code %d, want %d", code, want)
	}
}

func TestASystemThatForbidsNamespacesIsTold(t *testing.T) {
	cmd := start(t, "forbidden")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); string(out) != "forbidden: true\n" || code != 3 {
		t.Errorf("the program printed %q, and exited with %d", out, code)
	}
}
