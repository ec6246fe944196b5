package conn

import (
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"

	"cleversocks/conn/netaddr"
)

func (e rawEnd) close() {
	if e != 0 {
		_ = unix.Close(e.fd())
	}
}

// local is the socket's own address, unmapped; invalid: it has none, or is none.
func (e rawEnd) local() netip.AddrPort {
	if e == 0 {
		return netip.AddrPort{}
	}
	var name unix.RawSockaddrAny
	size := uint32(unix.SizeofSockaddrAny)
	_, _, errno := unix.RawSyscall(unix.SYS_GETSOCKNAME, uintptr(e.fd()), uintptr(unsafe.Pointer(&name)), uintptr(unsafe.Pointer(&size))) //nolint:gosec // the kernel gets their own bounds
	if errno != 0 {
		return netip.AddrPort{}
	}
	return addressOf(&name)
}

// addressOf is an address as the kernel has written it, unmapped.
func addressOf(raw *unix.RawSockaddrAny) netip.AddrPort {
	port := func(raw uint16) uint16 {
		b := (*[2]byte)(unsafe.Pointer(&raw)) //nolint:gosec // its two bytes, in the network's order
		return uint16(b[0])<<8 | uint16(b[1])
	}
	switch raw.Addr.Family {
	case unix.AF_INET:
		four := (*unix.RawSockaddrInet4)(unsafe.Pointer(raw)) //nolint:gosec // what the kernel has written there
		return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), port(four.Port))
	case unix.AF_INET6:
		six := (*unix.RawSockaddrInet6)(unsafe.Pointer(raw)) //nolint:gosec // what the kernel has written there
		addr := netip.AddrFrom16(six.Addr)
		if six.Scope_id != 0 {
			addr = addr.WithZone(zoneOf(int(six.Scope_id)))
		}
		return netaddr.Unmap(netip.AddrPortFrom(addr, port(six.Port)))
	}
	return netip.AddrPort{}
}

// zoneOf names an interface.
func zoneOf(index int) string {
	i, err := net.InterfaceByIndex(index)
	if err != nil {
		return ""
	}
	return i.Name
}
