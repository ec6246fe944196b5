// Package reset closes connections so that their peers see a reset.
package reset

import "net"

// Close closes a connection with a reset, at once: what is queued for the peer
// is dropped (relay.Reset delivers it first). A reset says more than an end of
// stream, and leaves no socket behind in TIME-WAIT. Conns that are no TCP
// sockets have none: a unix socket's peer sees an end, or a reset if it has
// written.
func Close(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // it fails on a socket that is gone, which is as good
	}
	_ = c.Close()
}
