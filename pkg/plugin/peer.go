package plugin

import (
	"net"
	"slices"

	"golang.org/x/sys/unix"
)

// A guarded listener accepts only connections of some users' processes.
type guarded struct {
	net.Listener
	uids []uint32
}

// Accept returns the next connection from an allowed process.
func (g *guarded) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil || g.allowed(conn) {
			return conn, err
		}
		_ = conn.Close() // nothing was sent on it
	}
}

// allowed asks the kernel who connected. A connection that is not a unix
// socket, or that the kernel tells nothing of, is not allowed.
func (g *guarded) allowed(conn net.Conn) bool {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return false
	}
	var peer *unix.Ucred
	var failure error
	err = raw.Control(func(fd uintptr) {
		peer, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return err == nil && failure == nil && slices.Contains(g.uids, peer.Uid)
}
