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

// allowed asks the kernel who connected.
func (g *guarded) allowed(conn net.Conn) bool {
	uid, known := peer(conn)
	return known && slices.Contains(g.uids, uid)
}

// peer asks the kernel whose process is at the other end: who connected, or who
// listened. Nobody is known of a connection that is not a unix socket.
func peer(conn net.Conn) (uid uint32, known bool) {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, false
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return 0, false
	}
	var is *unix.Ucred
	var failure error
	err = raw.Control(func(fd uintptr) {
		is, failure = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err != nil || failure != nil {
		return 0, false
	}
	return is.Uid, true
}
