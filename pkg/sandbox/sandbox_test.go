package sandbox_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/cap"

	"github.com/keymount/keymount/pkg/sandbox"
)

// sandboxChild is the variable that makes a test the process in the sandbox,
// which tries what the test's own function does.
const sandboxChild = "KEYMOUNT_TEST_SANDBOX_CHILD"

// A report is what a process in the sandbox found out: an error's text, or "".
type report map[string]string

func (r report) try(what string, err error) {
	r[what] = ""
	if err != nil {
		r[what] = err.Error()
		var errno unix.Errno
		if errors.As(err, &errno) {
			r[what] = unix.ErrnoName(errno)
		}
	}
}

// inside runs f in a process of its own and returns what it reports.
func inside(t *testing.T, f func(dir string, r report)) report {
	t.Helper()
	if dir := os.Getenv(sandboxChild); dir != "" {
		r := report{}
		f(dir, r)
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("\nreport %s\n", text)
		os.Exit(0)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	dir := t.TempDir()
	cmd.Env = append(os.Environ(), sandboxChild+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the process in the sandbox: %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if text, ok := strings.CutPrefix(line, "report "); ok {
			var r report
			if err := json.Unmarshal([]byte(text), &r); err != nil {
				t.Fatal(err)
			}
			return r
		}
	}
	t.Fatalf("the process in the sandbox reports nothing:\n%s", out)
	return nil
}

// everyThread runs f on several threads, those of before among them.
func everyThread(f func() error) error {
	var all sync.WaitGroup
	errs := make([]error, 8)
	meet := make(chan struct{})
	for i := range errs {
		all.Go(func() {
			runtime.LockOSThread()
			<-meet
			errs[i] = f()
		})
	}
	close(meet)
	all.Wait()
	return errors.Join(errs...)
}

func TestADriverInTheSandbox(t *testing.T) {
	got := inside(t, func(dir string, r report) {
		state, err := sandbox.Enter(&sandbox.Policy{Capabilities: []cap.Value{cap.CHOWN}, Calls: sandbox.Driver})
		r.try("enter", err)
		r["seccomp"], r["umask"], r["landlock"], r["no new privileges"] = state.Seccomp, state.Umask, state.Landlock, fmt.Sprint(state.NoNewPrivs)
		r["dumpable"] = fmt.Sprint(state.Dumpable)
		r["only capability, if any"] = strings.TrimSpace(strings.ReplaceAll(state.Capabilities, "cap_chown=ep", "="))
		r.try("execute a program", unix.Exec("/proc/self/exe", []string{"true"}, nil))
		r.try("trace", everyThread(func() error { return unix.PtraceAttach(os.Getppid()) }))
		r.try("enter other namespaces", everyThread(func() error { return unix.Unshare(unix.CLONE_NEWUSER) }))
		_, _, errno := unix.RawSyscall(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0)
		r.try("clone into other namespaces", errno)
		_, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)
		r.try("socket of the kernel", err)
		_, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
		r.try("raw socket", err)
		_, err = unix.KeyctlInt(unix.KEYCTL_GET_KEYRING_ID, unix.KEY_SPEC_SESSION_KEYRING, 0, 0, 0)
		r.try("keys of the kernel", err)
		r.try("write a file", os.WriteFile(filepath.Join(dir, "file"), nil, 0o666))
		info, err := os.Stat(filepath.Join(dir, "file"))
		r.try("its mode", err)
		r["mode of a file"] = info.Mode().String()
		lis, err := net.Listen("tcp", "127.0.0.1:0")
		r.try("listen", err)
		_, err = net.Dial("tcp", lis.Addr().String())
		r.try("connect", err)
	})
	want := report{
		"enter": "", "seccomp": "filter", "umask": "0077", "landlock": "off", "no new privileges": "true", "dumpable": "false",
		"only capability, if any": "=",
		"execute a program":       "ENOSYS", "trace": "ENOSYS", "enter other namespaces": "ENOSYS", "clone into other namespaces": "ENOSYS",
		"socket of the kernel": "ENOSYS", "raw socket": "EPERM", "keys of the kernel": "ENOSYS",
		"write a file": "", "its mode": "", "mode of a file": "-rw-------", "listen": "", "connect": "",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what a driver can do (-want +got):\n%s", diff)
	}
}

func TestAProviderInTheSandbox(t *testing.T) {
	got := inside(t, func(dir string, r report) {
		for _, folder := range []string{"store", "certs/..1", "sockets", "other"} {
			must(t, os.MkdirAll(filepath.Join(dir, folder), 0o755))
		}
		for _, file := range []string{"store/secret", "certs/..1/ca.crt", "other/file"} {
			must(t, os.WriteFile(filepath.Join(dir, file), []byte("x"), 0o600))
		}
		must(t, os.Symlink("..1", filepath.Join(dir, "certs/..data")))
		must(t, os.Symlink("..data/ca.crt", filepath.Join(dir, "certs/ca.crt")))
		lis, err := net.Listen("unix", filepath.Join(dir, "sockets/file.sock"))
		must(t, err)
		state, err := sandbox.Enter(&sandbox.Policy{Calls: sandbox.Provider, Files: &sandbox.Files{
			Read:  []string{filepath.Join(dir, "store"), filepath.Join(dir, "certs/ca.crt"), filepath.Join(dir, "missing")},
			Write: []string{filepath.Join(dir, "sockets")},
		}})
		r.try("enter", err)
		r["capabilities"], r["seccomp"] = state.Capabilities, state.Seccomp
		r["landlock"] = fmt.Sprint(slices.Contains([]string{"off", "none"}, state.Landlock))
		for _, file := range []string{"store/secret", "certs/ca.crt", "other/file"} {
			r.try("read "+file, everyThread(func() error { _, err := os.ReadFile(filepath.Join(dir, file)); return err }))
		}
		_, err = os.ReadDir(filepath.Join(dir, "store"))
		r.try("list the store", err)
		_, err = os.ReadDir(dir)
		r.try("list around it", err)
		_, err = os.ReadFile("/etc/passwd")
		r.try("read /etc/passwd", err)
		r.try("write into the store", os.WriteFile(filepath.Join(dir, "store/new"), nil, 0o600))
		_, err = os.ReadFile("/etc/hosts")
		r.try("read /etc/hosts", err)
		r.try("execute a program", unix.Exec("/proc/self/exe", []string{"true"}, nil))
		_, err = net.Listen("tcp", "127.0.0.1:0")
		r.try("listen", err)
		r.try("close the socket", lis.Close())
		_, err = os.Lstat(filepath.Join(dir, "sockets/file.sock"))
		r["the socket afterwards"] = fmt.Sprint(errors.Is(err, fs.ErrNotExist))
		_, err = net.DialTimeout("tcp", "127.0.0.1:1", time.Second)
		r.try("connect", err)
	})
	want := report{
		"enter": "", "capabilities": "=", "seccomp": "filter", "landlock": "false",
		"read store/secret": "", "read certs/ca.crt": "", "read other/file": "EACCES", "list the store": "", "list around it": "EACCES",
		"read /etc/passwd": "EACCES", "write into the store": "EACCES", "read /etc/hosts": "", "execute a program": "ENOSYS",
		"listen": "ENOSYS", "close the socket": "", "the socket afterwards": "true", "connect": "ECONNREFUSED",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what a provider can do (-want +got):\n%s", diff)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
