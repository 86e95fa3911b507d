package traffic

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
)

// A listener takes the audit logs of all nodes, and forgets them. It can leave
// and come back.
type listener struct {
	path string

	mu    sync.Mutex
	lis   net.Listener
	conns []net.Conn
}

func (l *listener) listen() error {
	lis, err := net.Listen("unix", l.path)
	if err != nil {
		return err
	}
	l.mu.Lock()
	l.lis = lis
	l.mu.Unlock()
	go l.accept(lis)
	return nil
}

// accept ends with lis.
func (l *listener) accept(lis net.Listener) {
	for {
		conn, err := lis.Accept()
		if err != nil {
			return
		}
		l.mu.Lock()
		l.conns = append(l.conns, conn)
		l.mu.Unlock()
		go func() { _, _ = io.Copy(io.Discard, conn) }()
	}
}

// leave closes everything.
func (l *listener) leave() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	var errs []error
	if l.lis != nil {
		errs = append(errs, l.lis.Close())
	}
	for _, conn := range l.conns {
		errs = append(errs, conn.Close())
	}
	l.lis, l.conns = nil, nil
	if err := os.Remove(l.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
