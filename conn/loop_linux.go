package conn

import "golang.org/x/sys/unix"

// sameConnection reports whether two sockets may be the two ends of one
// connection: neither has got more than the other has sent.
func sameConnection(dialed, accepted dialedSocket) bool {
	out, ok := tcpInfo(dialed)
	in, also := tcpInfo(accepted)
	return ok && also && out.Bytes_sent >= in.Bytes_received && in.Bytes_sent >= out.Bytes_received
}

func tcpInfo(socket dialedSocket) (info *unix.TCPInfo, ok bool) {
	var err error
	controlErr := socket.control(func(fd uintptr) {
		info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
	})
	return info, controlErr == nil && err == nil
}
