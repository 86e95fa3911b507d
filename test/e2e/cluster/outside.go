package cluster

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keymount/keymount/test/stores/openbao"
)

// outside is the role of the process that `go test` starts. It returns the
// exit code of the tests.
func outside(m Tests) int {
	begin := time.Now()
	flag.Parse()
	if f := flag.Lookup("test.list"); f.Value.String() != "" {
		return m.Run()
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		fail(err)
	}
	l := layout{cache: filepath.Join(cache, "keymount-e2e")}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	defer stop()
	var code int
	if kubeconfig := os.Getenv("KUBECONFIG"); kubeconfig != "" {
		code, err = foreign(ctx, m, l, kubeconfig)
	} else {
		code, err = local(ctx, l, begin)
	}
	if err != nil {
		say("%v", err)
		return 1
	}
	return code
}

// foreign runs the tests in this process against a cluster that is there.
func foreign(ctx context.Context, m Tests, l layout, kubeconfig string) (int, error) {
	release, err := l.lock()
	if err != nil {
		return 1, err
	}
	if err := prepare(ctx, l, foreignNeeds()); err != nil {
		return 1, err
	}
	release()
	if err := load(ctx, l, os.Getenv("E2E_LOAD")); err != nil {
		return 1, err
	}
	current = &Cluster{Kubeconfig: kubeconfig, layout: l}
	return m.Run(), nil
}

// load runs a command that brings image archives into a foreign cluster, such
// as "kind load image-archive", once for each.
func load(ctx context.Context, l layout, command string) error {
	words := strings.Fields(command)
	if len(words) == 0 {
		say("the cluster must have the images of %s; E2E_LOAD='kind load image-archive' loads them", filepath.Dir(l.archive("")))
		return nil
	}
	for _, i := range images(l) {
		if err := run(exec.CommandContext(ctx, words[0], append(words[1:], l.archive(i.name))...)); err != nil {
			return err
		}
	}
	return nil
}

// local builds the node, runs it, and removes what is left of it.
func local(ctx context.Context, l layout, begin time.Time) (code int, err error) {
	if os.Geteuid() != 0 {
		return 1, errors.New("a node of our own needs root; or set KUBECONFIG to test another cluster")
	}
	release, err := l.lock()
	if err != nil {
		return 1, err
	}
	if err := prepare(ctx, l, localNeeds()); err != nil {
		return 1, err
	}
	if err := step("build OpenBao", func() error { _, err := openbao.Binary(ctx); return err }); err != nil {
		return 1, err
	}
	l, running, err := newRun(l)
	if err != nil {
		return 1, err
	}
	defer func() { _ = running.Close() }()
	release()
	defer func() {
		keepLogs(l, code)
		if cleaning := clean(l); err == nil {
			err = cleaning
		}
	}()
	if err := makeCgroups(l); err != nil {
		return 1, err
	}
	return spawn(ctx, l, begin)
}

// spawn runs the node until its end. The kernel ends everything in it when its
// first process ends, and that when this one does.
func spawn(ctx context.Context, l layout, begin time.Time) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	runtime.LockOSThread() // the kernel watches over the thread
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, self, remaining(os.Args[1:], begin)...)
	cmd.Env = append(os.Environ(), roleVariable+"="+roleNode, runVariable+"="+l.run)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	err = cmd.Run()
	ended := (*exec.ExitError)(nil)
	switch {
	case err == nil:
		return 0, nil
	case ctx.Err() != nil:
		return 1, errors.New("interrupted")
	case errors.As(err, &ended) && ended.Exited():
		return ended.ExitCode(), nil
	default:
		return 1, fmt.Errorf("node: %w", err)
	}
}

// remaining returns the arguments with the time limit of the tests lowered by
// what has passed: `go test` counts from the start of this process, and kills
// it where the tests could still tell which of them hangs.
func remaining(args []string, begin time.Time) []string {
	limit, err := time.ParseDuration(flag.Lookup("test.timeout").Value.String())
	if err != nil || limit == 0 {
		return args
	}
	left := max(limit-time.Since(begin), time.Second)
	return append(append([]string{}, args...), "-test.timeout="+left.String())
}

// lock keeps other runs from building, and from taking a run that begins for
// one that has ended.
func (l layout) lock() (release func(), err error) {
	if err := os.MkdirAll(l.cache, 0o755); err != nil {
		return nil, err
	}
	f, err := lockFile(filepath.Join(l.cache, "lock"), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	return func() { _ = f.Close() }, nil
}

// lockFile returns the file, locked until it is closed or this process ends.
func lockFile(path string, how int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), how); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// newRun makes the folder of a run, after removing those of killed runs. The
// run lasts until the file is closed.
func newRun(l layout) (layout, *os.File, error) {
	if err := sweep(l); err != nil {
		return l, nil, err
	}
	var err error
	if l.run, err = os.MkdirTemp(l.runs(), ""); err != nil {
		return l, nil, err
	}
	running, err := lockFile(l.state("lock"), unix.LOCK_EX)
	return l, running, err
}

// sweep removes what killed runs have left.
func sweep(l layout) error {
	for _, folder := range covered() {
		if strings.HasPrefix(l.cache, folder+"/") {
			return fmt.Errorf("the cache %s must not be below %s, of which the node has its own: set XDG_CACHE_HOME", l.cache, folder)
		}
	}
	if err := os.MkdirAll(l.runs(), 0o700); err != nil {
		return err
	}
	entries, err := os.ReadDir(l.runs())
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := sweepOne(layoutOf(filepath.Join(l.runs(), e.Name()))); err != nil {
			return err
		}
	}
	return nil
}

// sweepOne removes a run that has ended: nobody holds its lock, and it has no
// process left.
func sweepOne(old layout) error {
	f, err := lockFile(old.state("lock"), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	pids, err := contained(old)
	if err != nil || len(pids) > 0 {
		return err
	}
	return clean(old)
}

// keepLogs saves the logs of a run that failed.
func keepLogs(l layout, code int) {
	if kept := filepath.Join(l.cache, "logs"); code != 0 && exists(l.state("logs")) {
		_ = os.RemoveAll(kept)
		if os.Rename(l.state("logs"), kept) == nil {
			say("logs of the servers and of all containers: %s", kept)
		}
	}
}

// clean removes what is left of a run after its last process. The kernel may
// need a moment to let go of it.
func clean(l layout) error {
	return patiently(10*time.Second, func() error {
		if err := removeCgroups(l); err != nil {
			return err
		}
		return os.RemoveAll(l.run)
	})
}

// patiently tries until it works or the time is over.
func patiently(limit time.Duration, try func() error) error {
	for deadline := time.Now().Add(limit); ; time.Sleep(50 * time.Millisecond) {
		if err := try(); err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
