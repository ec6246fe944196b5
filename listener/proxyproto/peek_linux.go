package proxyproto

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// peekHeader waits for as much of the stream's beginning as tells what it is,
// and takes nothing: after a version 1 line or without a header the bytes belong
// to others. It returns what there is when the peer has ended its side.
func peekHeader(conn net.Conn) ([]byte, error) {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("PROXY protocol: %T is no socket", conn)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	buf := make([]byte, maxLine)
	var n int
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		n, _, failed = unix.Recvfrom(int(fd), buf, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if errors.Is(failed, unix.EAGAIN) || errors.Is(failed, unix.EINTR) {
			return false
		}
		if failed != nil {
			n, failed = 0, os.NewSyscallError("recv", failed)
			return true
		}
		return n == 0 || complete(buf[:n]) || ended(int(fd))
	})
	if err != nil {
		return nil, err
	}
	return buf[:n], failed
}

// ended reports whether nothing more will come: what has been queued already
// would wake a reader again and again.
func ended(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}
