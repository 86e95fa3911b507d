package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"syscall"
	"time"
)

// errDown is wrapped where a program is to be stopped that does not run.
var errDown = errors.New("it is not running")

// patience bounds the start of a server.
const patience = 2 * time.Minute

// A program is a server of the node.
type program struct {
	name    string
	command []string
	role    string                      // of this binary, that executes the command; "" starts it as it is
	ready   func(context.Context) error // fails until it answers
}

// servers starts and stops programs.
type servers struct {
	layout   layout
	programs []program

	mu      sync.Mutex
	running map[string]*process // guarded by mu
}

// A process is a running program.
type process struct {
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended, and err is set
	err   error
}

// start starts a program, and returns when it answers.
func (s *servers) start(name string) error {
	p, err := s.launch(name)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ready := s.programs[s.index(name)].ready
	for {
		attempt, stop := context.WithTimeout(ctx, 5*time.Second)
		err := ready(attempt)
		stop()
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended: %w\n%s", name, p.err, s.tail(name))
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w\n%s", name, err, s.tail(name))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *servers) index(name string) int {
	return slices.IndexFunc(s.programs, func(p program) bool { return p.name == name })
}

// launch starts a program that is not running.
func (s *servers) launch(name string) (*process, error) {
	i := s.index(name)
	if i < 0 {
		return nil, fmt.Errorf("start %s: no program of that name", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[name] != nil {
		return nil, fmt.Errorf("start %s: it is running", name)
	}
	cmd, err := s.programs[i].cmd(s.layout)
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(s.layout.log(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the process has its own
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{cmd: cmd, ended: make(chan struct{})}
	s.running[name] = p
	go s.watch(name, p)
	return p, nil
}

func (p program) cmd(l layout) (*exec.Cmd, error) {
	if p.role == "" {
		return exec.Command(p.command[0], p.command[1:]...), nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, p.command...)
	cmd.Env = append(os.Environ(), roleVariable+"="+p.role)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	return cmd, nil
}

// watch waits for the end of a process, and tells of one that nobody asked for.
func (s *servers) watch(name string, p *process) {
	p.err = p.cmd.Wait()
	close(p.ended)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running[name] == p {
		delete(s.running, name)
		say("%s ended by itself: %v; see %s", name, p.err, s.layout.log(name))
	}
}

// stop kills a program and waits for its end.
func (s *servers) stop(name string) error {
	s.mu.Lock()
	p := s.running[name]
	delete(s.running, name)
	s.mu.Unlock()
	if p == nil {
		return fmt.Errorf("stop %s: %w", name, errDown)
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop %s: %w", name, err)
	}
	<-p.ended
	return nil
}

// tail returns the last lines of a log.
func (s *servers) tail(name string) []byte {
	content, err := os.ReadFile(s.layout.log(name))
	if err != nil {
		return []byte(err.Error())
	}
	lines := bytes.SplitAfter(content, []byte("\n"))
	return bytes.Join(lines[max(0, len(lines)-20):], nil)
}
