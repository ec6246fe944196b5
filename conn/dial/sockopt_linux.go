package dial

import (
	"fmt"
	"net/netip"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"cleversocks/resolver"
)

// socketOptions are set on a socket before it is bound and connected.
type socketOptions struct {
	mark        uint32
	device      string
	congestion  string
	fixedSource bool // a source address is bound
	freeBind    bool // the source may be on no interface of ours
}

// apply sets the options. The error names the one that failed.
func (o socketOptions) apply(network string, c syscall.RawConn) error {
	var err error
	ctrlErr := c.Control(func(fd uintptr) { err = o.set(int(fd), strings.HasSuffix(network, "6")) })
	if ctrlErr != nil {
		return ctrlErr
	}
	return err
}

// Set sets what has to be set before a socket is bound and connected. The error
// names the option that failed.
func (s *Socket) Set(fd int) error { return s.options.set(fd, s.To.Addr().Is6()) }

func (o socketOptions) set(fd int, v6 bool) error {
	if o.mark != 0 {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(o.mark)); err != nil {
			return fmt.Errorf("set mark %d: %w", o.mark, err)
		}
	}
	if o.device != "" {
		if err := unix.BindToDevice(fd, o.device); err != nil {
			return fmt.Errorf("bind to interface %q: %w", o.device, err)
		}
	}
	if o.congestion != "" {
		if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, o.congestion); err != nil {
			return fmt.Errorf("set congestion control %q: %w", o.congestion, err)
		}
	}
	if o.fixedSource {
		// Without it, bind takes a port for this source address alone and
		// the port range ends at 28,000 connections, to however many
		// destinations. The option is SOL_IP's for IPv6 sockets, too.
		if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
			return fmt.Errorf("set IP_BIND_ADDRESS_NO_PORT: %w", err)
		}
	}
	if o.freeBind {
		level, option := unix.SOL_IP, unix.IP_FREEBIND
		if v6 {
			level, option = unix.SOL_IPV6, unix.IPV6_FREEBIND
		}
		if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
			return fmt.Errorf("set IP_FREEBIND: %w", err)
		}
	}
	return nil
}

// sourceAddr asks the kernel which source address it would take to reach an
// address, by connecting a UDP socket, which sends nothing. It is invalid
// when there is no route.
func sourceAddr(dst netip.Addr, egress Egress) netip.Addr {
	family := unix.AF_INET
	if dst.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return netip.Addr{}
	}
	defer func() { _ = unix.Close(fd) }()
	opts := socketOptions{mark: egress.Mark, device: egress.Interface}
	if opts.set(fd, dst.Is6()) != nil {
		return netip.Addr{}
	}
	if unix.Connect(fd, sockaddr(dst)) != nil {
		return netip.Addr{}
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.Addr{}
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrFrom4(sa.Addr)
	case *unix.SockaddrInet6:
		return netip.AddrFrom16(sa.Addr)
	}
	return netip.Addr{}
}

// sockaddr is an address with a port that is never sent to.
func sockaddr(dst netip.Addr) unix.Sockaddr {
	const discard = 9 // RFC 863
	if resolver.FamilyOf(dst) == resolver.IPv4 {
		return &unix.SockaddrInet4{Port: discard, Addr: dst.Unmap().As4()}
	}
	return &unix.SockaddrInet6{Port: discard, Addr: dst.As16()}
}
