package listener

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cleversocks/listener/transparent"
)

type rawConn = syscall.RawConn

// setSocketOptions sets what accepted connections inherit, before bind.
func setSocketOptions(c rawConn, o Options) error {
	var err error
	controlErr := c.Control(func(fd uintptr) { err = setOptions(int(fd), o) })
	if controlErr != nil {
		return controlErr
	}
	return err
}

func setOptions(fd int, o Options) error {
	set := func(level, name, value int) error {
		return mayLack(fd, unix.SetsockoptInt(fd, level, name, value))
	}
	if o.Shards > 1 {
		if err := set(unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			return fmt.Errorf("SO_REUSEPORT: %w", err)
		}
	}
	if err := transparent.SetOptions(fd, o.Transparent); err != nil {
		return err
	}
	if o.Congestion != "" {
		if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, o.Congestion); err != nil {
			return fmt.Errorf("congestion control %q: %w", o.Congestion, err)
		}
	}
	// Urgent bytes (RFC 9293 §3.8.5) come in their place among the others, and the
	// relay passes them on. Multipath TCP knows none.
	_ = set(unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	noDelay := 0
	if o.Sockets.NoDelay {
		noDelay = 1
	}
	if err := set(unix.IPPROTO_TCP, unix.TCP_NODELAY, noDelay); err != nil {
		return fmt.Errorf("TCP_NODELAY: %w", err)
	}
	probes := o.Sockets.KeepAlive
	if !probes.Enable {
		return set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0) // it may have been on
	}
	for _, option := range []struct{ level, name, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, seconds(probes.Idle)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, seconds(probes.Interval)},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, max(probes.Count, 1)},
	} {
		if err := set(option.level, option.name, option.value); err != nil {
			return fmt.Errorf("keepalive: %w", err)
		}
	}
	return nil
}

// mayLack is err, unless it only says that a socket of Multipath TCP, as a systemd unit
// may have it, does not know an option: kernels learn them one by one, keepalive after
// Linux 5.15, and a client is served without it, too.
func mayLack(fd int, err error) error {
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOPROTOOPT) {
		return err
	}
	if protocol, e := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); e != nil || protocol != unix.IPPROTO_MPTCP {
		return err
	}
	return nil
}

// CheckCongestion tries a congestion control on a socket of its own; "" always
// works.
func CheckCongestion(name string) error {
	if name == "" {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		fd, err = unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd) //nolint:errcheck // nothing was written
	switch err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name); {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("the kernel has no congestion control %q", name)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("congestion control %q is for CAP_NET_ADMIN alone: see net.ipv4.tcp_allowed_congestion_control", name)
	case err != nil:
		return fmt.Errorf("congestion control %q: %w", name, err)
	}
	return nil
}

// systemCongestion is what sockets have that choose none.
func systemCongestion() (string, error) {
	name, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	return strings.TrimSpace(string(name)), err
}

// seconds rounds up: the kernel refuses 0.
func seconds(d time.Duration) int { return max(int((d+time.Second-1)/time.Second), 1) }

// queued reports whether a connection waits to be accepted.
func queued(c rawConn) (waits bool) {
	_ = c.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		waits = err == nil && n > 0 && poll[0].Revents&unix.POLLIN != 0
	})
	return waits
}

// keepOut has the kernel drop what would begin a handshake at a listening
// socket, and reports whether it does. Handshakes that have begun go on. Whoever
// is kept out tries again in a second, and finds the port closed.
func keepOut(c rawConn) (does bool) {
	// tcp(7) headers come first: the flags are at offset 13. A SYN alone is
	// dropped, everything else passes.
	const flags, syn, ack = 13, 0x02, 0x10
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: flags},
		{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: syn | ack},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: syn, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0xffffffff},
	}
	_ = c.Control(func(fd uintptr) {
		if family, err := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DOMAIN); err != nil || family == unix.AF_UNIX {
			return
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		does = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program) == nil
	})
	return does
}

// letIn undoes keepOut.
func letIn(c rawConn) {
	_ = c.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0) // fails if there is none
	})
}
