// Package userns lets a program mount file systems without touching the
// mounts of the machine, as root and as an ordinary user.
//
// Reexec runs the program once more in a mount namespace of its own, and,
// unless it may mount already, in a user namespace in which it is root:
//
//	func main() {
//		switch code, done, err := userns.Reexec(); {
//		case done:
//			os.Exit(code) // the second process did all the work
//		case err != nil:
//			// The system forbids it; go on without mounts.
//		}
//		// In the second process, which may mount; or forbidden.
//	}
//
// The mounts vanish with the last process that is in the namespace, however
// it ends.
package userns

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrForbidden is wrapped when the system lets this user have no namespaces.
var ErrForbidden = errors.New("the system does not allow this user to create namespaces")

// marker in front of the program's name tells the second process what it is.
const marker = "[namespace] "

// Reexec runs this program again, with the same arguments, in a private mount
// namespace where it may mount. Call it first thing in main.
//
// In the first process it returns when the second one has ended, with done and
// its exit code; 128 and more stands for a signal. Standard input, output and
// error are the same files in both. Signals to the first process are passed
// on, except those that the terminal has sent to both. If the first process
// dies, the second is killed.
//
// In the second process it returns at once, without done. Mounts neither
// come from nor go to the outside. An ordinary user has the user and the group
// 0 there, which are the own ones outside, and no others.
//
// The error wraps ErrForbidden where namespaces are forbidden; nothing has run
// then, and the program may go on as it is.
func Reexec() (code int, done bool, err error) {
	if name, second := strings.CutPrefix(os.Args[0], marker); second {
		os.Args[0] = name
		return 0, false, nil
	}
	cmd, err := command()
	if err != nil {
		return 0, false, err
	}
	// The kernel watches over the thread that starts the second process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, false, startError(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if !fromTerminal(s) {
				_ = cmd.Process.Signal(s) // it may have ended by itself
			}
		case err := <-ended:
			code, err := exitCode(err)
			return code, true, err
		}
	}
}

// Main runs the tests of a package by Reexec, so that they may mount, and
// returns the exit code for TestMain. The package that calls it is safe to
// test as root and as an ordinary user:
//
//	func TestMain(m *testing.M) { os.Exit(userns.Main(m)) }
func Main(m interface{ Run() int }) int { return run(m, os.Stderr) }

func run(m interface{ Run() int }, stderr io.Writer) int {
	code, done, err := Reexec()
	switch {
	case done:
		return code
	case err != nil:
		_, _ = fmt.Fprintf(stderr, "these tests mount file systems in namespaces of their own: %v\n", err)
		return 1
	default:
		return m.Run()
	}
}

func command() (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("run this program again: %w", err)
	}
	cmd := exec.Command(self)
	cmd.Args = append([]string{marker + os.Args[0]}, os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	// By Unshareflags, mounts are made private before the program starts.
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if MayMount() {
		return cmd, nil
	}
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	return cmd, nil
}

// MayMount reports whether this process has CAP_SYS_ADMIN in its user namespace.
func MayMount() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	err := unix.Capget(&header, &data[0])
	return err == nil && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// startError tells a system that forbids namespaces from one that fails.
func startError(err error) error {
	for _, forbidden := range []error{unix.EPERM, unix.EACCES, unix.ENOSPC, unix.EUSERS, unix.EINVAL, unix.ENOSYS} {
		if errors.Is(err, forbidden) {
			return fmt.Errorf("%w (see user.max_user_namespaces and kernel.apparmor_restrict_unprivileged_userns): %w", ErrForbidden, err)
		}
	}
	return fmt.Errorf("run this program again: %w", err)
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 1, err
	}
	status := exit.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return status.ExitStatus(), nil
}

var forwarded = []os.Signal{
	syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2,
}

// fromTerminal reports whether a signal has most likely come from a key, which
// sends it to all processes in the foreground.
func fromTerminal(s os.Signal) bool {
	if s != syscall.SIGINT && s != syscall.SIGQUIT {
		return false
	}
	group, err := unix.IoctlGetInt(int(os.Stdin.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}
