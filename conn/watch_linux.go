package conn

import (
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// clientGone waits until the peer has closed or reset the connection and
// says so, or until the read deadline passes: false. A client that sent
// something ahead and then shut its side down has not left.
func clientGone(c *net.TCPConn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	gone := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		for {
			n, _, errno := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if errors.Is(errno, unix.EINTR) {
				continue
			}
			if errors.Is(errno, unix.EAGAIN) || errno == nil && n > 0 {
				return false // wait for the next event
			}
			gone = true
			return true
		}
	})
	return err == nil && gone
}
