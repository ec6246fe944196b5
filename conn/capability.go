package conn

import (
	"net"
	"syscall"
)

// A session's connection is a net.Conn. What it can do beyond that is found by
// looking at it and, through NetConn, at what it wraps:
//
//	halfCloser        ends our side of the stream alone: TCP, unix, TLS
//	NetConn() net.Conn    the connection below, for deadlines, resets and a look
//	                      whether the peer has gone: crypto/tls has it
//	PassThrough() net.Conn    the connection below, when the wrapper no longer
//	                      changes, holds or counts a byte: the relay then uses that,
//	                      and splices; nil: not now
type (
	halfCloser  interface{ CloseWrite() error }
	wrapper     interface{ NetConn() net.Conn }
	passThrough interface{ PassThrough() net.Conn }
)

// maxWrappers bounds how many wrappers are looked through.
const maxWrappers = 8

// socketOf is the socket below all wrappers; nil when there is none.
func socketOf(c net.Conn) syscall.Conn {
	for range maxWrappers {
		if socket, ok := c.(syscall.Conn); ok {
			return socket
		}
		below, ok := c.(wrapper)
		if !ok {
			return nil
		}
		c = below.NetConn()
	}
	return nil
}

// rawOf is that socket for system calls of our own; nil when there is none.
func rawOf(c net.Conn) syscall.RawConn {
	socket := socketOf(c)
	if socket == nil {
		return nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// bare takes off the wrappers that add nothing any more.
func bare(c net.Conn) net.Conn {
	for range maxWrappers {
		through, ok := c.(passThrough)
		if !ok {
			return c
		}
		below := through.PassThrough()
		if below == nil {
			return c
		}
		c = below
	}
	return c
}
