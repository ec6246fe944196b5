package adopt

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Of are the options that a socket has; the zero Options, if it is not of TCP.
func Of(fd int) Options {
	is := func(level, option int) bool { return get(fd, level, option) > 0 }
	o := Options{NoDelay: is(unix.IPPROTO_TCP, unix.TCP_NODELAY)}
	if is(unix.SOL_SOCKET, unix.SO_KEEPALIVE) {
		seconds := func(option int) time.Duration { return time.Duration(get(fd, unix.IPPROTO_TCP, option)) * time.Second }
		o.KeepAlive = net.KeepAliveConfig{
			Enable: true, Idle: seconds(unix.TCP_KEEPIDLE), Interval: seconds(unix.TCP_KEEPINTVL), Count: get(fd, unix.IPPROTO_TCP, unix.TCP_KEEPCNT),
		}
	}
	return o
}

// get is a number of a socket; 0: it has none.
func get(fd, level, option int) int {
	n, err := unix.GetsockoptInt(fd, level, option)
	if err != nil {
		return 0
	}
	return n
}
