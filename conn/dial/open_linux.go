package dial

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Open makes the socket and begins to connect it, without waiting: the descriptor
// is the caller's. Once it is writable and has no error it is connected. Its
// keepalive probes are for Prober's function to turn on.
func (s *Socket) Open() (fd int, err error) {
	family := unix.AF_INET
	if s.To.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if err = s.begin(fd); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func (s *Socket) begin(fd int) error {
	if s.options != (socketOptions{}) {
		if err := s.Set(fd); err != nil {
			return err
		}
	}
	// Urgent bytes (RFC 9293 §3.8.5) come in their place among the others.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if s.NoDelay {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
			return os.NewSyscallError("setsockopt", err)
		}
	}
	if s.Source.IsValid() {
		if errno := withSockaddr(unix.SYS_BIND, fd, netip.AddrPortFrom(s.Source, 0)); errno != 0 {
			return os.NewSyscallError("bind", errno)
		}
	}
	if errno := withSockaddr(unix.SYS_CONNECT, fd, s.To); errno != 0 && errno != unix.EINPROGRESS {
		return os.NewSyscallError("connect", errno)
	}
	return nil
}

// withSockaddr is bind(2) or connect(2) of a socket that does not block.
func withSockaddr(call uintptr, fd int, at netip.AddrPort) unix.Errno {
	var raw unix.RawSockaddrInet6 // the larger one
	size := uintptr(unix.SizeofSockaddrInet6)
	var bytes [2]byte
	binary.BigEndian.PutUint16(bytes[:], at.Port())
	port := binary.NativeEndian.Uint16(bytes[:])
	if addr := at.Addr(); addr.Is4() {
		size = unix.SizeofSockaddrInet4
		*(*unix.RawSockaddrInet4)(unsafe.Pointer(&raw)) = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: addr.As4()} //nolint:gosec // it fits
	} else {
		raw = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: addr.As16(), Scope_id: scopeID(addr.Zone())}
	}
	_, _, errno := unix.RawSyscall(call, uintptr(fd), uintptr(unsafe.Pointer(&raw)), size) //nolint:gosec // the kernel gets its own bounds
	return errno
}

// scopeID is the interface that a zone names; 0: none does.
func scopeID(zone string) uint32 {
	if zone == "" {
		return 0
	}
	i, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(i.Index)
}

// Prober has the kernel probe a connected socket while it is silent, as the
// settings say. Where that fails, the connection is as good without.
func (d *Dialer) Prober() func(fd int) {
	k := &d.opts.KeepAlive
	if !k.Enable {
		return nil
	}
	return func(fd int) {
		set := func(level, option, value int) { _ = unix.SetsockoptInt(fd, level, option, value) }
		set(unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		for _, o := range []struct{ option, value int }{
			{unix.TCP_KEEPIDLE, probeSeconds(k.Idle)}, {unix.TCP_KEEPINTVL, probeSeconds(k.Interval)}, {unix.TCP_KEEPCNT, k.Count},
		} {
			if o.value > 0 { // else the system's
				set(unix.IPPROTO_TCP, o.option, o.value)
			}
		}
	}
}

// probeSeconds rounds up.
func probeSeconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }
