package conn

import (
	"net"

	"golang.org/x/sys/unix"
)

// awaitBytes waits until a socket has something to read, an end of stream among it, or
// cannot be waited for. It reports whether it had to wait, and calls before it does. A
// conn that is no socket is not waited for.
func awaitBytes(c net.Conn, before func()) (waits bool) {
	raw := rawOf(c)
	if raw == nil {
		return false
	}
	_ = raw.Read(func(fd uintptr) bool { // it fails where the next read fails too
		var b [1]byte
		if _, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT); err != unix.EAGAIN {
			return true
		}
		if !waits {
			waits = true
			before()
		}
		return false
	})
	return waits
}
