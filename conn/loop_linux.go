package conn

import (
	"net"

	"golang.org/x/sys/unix"
)

// sameConnection reports whether two sockets may be the two ends of one
// connection: neither has got more than the other has sent.
func sameConnection(dialed, accepted net.Conn) bool {
	out, ok := tcpInfo(dialed)
	in, also := tcpInfo(accepted)
	return ok && also && out.Bytes_sent >= in.Bytes_received && in.Bytes_sent >= out.Bytes_received
}

func tcpInfo(c net.Conn) (info *unix.TCPInfo, ok bool) {
	socket := socketOf(c)
	if socket == nil {
		return nil, false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, false
	}
	controlErr := raw.Control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	return info, controlErr == nil && err == nil
}
