package conn

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// clientGone waits until the peer has closed or reset the connection and says
// so, or until the read deadline passes: false. A client that sent something
// ahead, read already or still unread, and then shut its side down has not
// left: it may well want the answer. When the connection is wrapped, the client
// has left: TLS ends one direction by a message, and shuts the socket down only
// when both have ended.
func clientGone(c net.Conn, ahead bool) bool {
	raw := rawOf(c)
	if raw == nil {
		return false
	}
	_, direct := c.(syscall.Conn)
	gone := false
	err := raw.Read(func(fd uintptr) bool {
		gone = left(int(fd), ahead, direct)
		return gone // false: wait for the next event
	})
	return err == nil && gone
}

// left looks at the socket as it is now.
func left(fd int, ahead, direct bool) bool {
	var b [1]byte
	n, _, err := unix.Recvfrom(fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return false
	case err != nil:
		return true // reset
	case n == 0 && !ahead:
		return true // closed
	}
	// Unread bytes hide what came behind them; a poll does not. Nothing here has
	// ended our side: what has ended both is a reset, or the close of a unix socket.
	ends := int16(unix.POLLHUP)
	if !direct {
		ends |= unix.POLLRDHUP
	}
	poll := []unix.PollFd{{Fd: int32(fd), Events: ends}}
	events, err := unix.Poll(poll, 0)
	return err == nil && events > 0 && poll[0].Revents&ends != 0
}
