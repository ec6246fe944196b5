//go:build unix

package upstream

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// peek looks at what a socket holds without waiting and without taking it.
func peek(c *net.TCPConn) peeked {
	rc, err := c.SyscallConn()
	if err != nil {
		return peekEnded
	}
	seen := peekEnded
	err = rc.Control(func(fd uintptr) {
		var b [1]byte
		n, _, rerr := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		switch {
		case errors.Is(rerr, unix.EAGAIN):
			seen = peekNothing
		case rerr == nil && n > 0:
			seen = peekData
		}
	})
	if err != nil {
		return peekEnded
	}
	return seen
}
