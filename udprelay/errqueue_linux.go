package udprelay

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errorBurst bounds how many errors are read at a time.
const errorBurst = 64

// errorQueue is what ICMP says of the datagrams of a socket. An unconnected
// socket hears of it in the error queue alone, which is asked for (ip(7),
// IP_RECVERR), and which says which destination it is about.
type errorQueue struct {
	gone func(at netip.AddrPort) // called for each destination where nobody is
}

// reportErrors has gone called, by whoever reads or writes the socket next,
// for each destination of which ICMP says that nobody is there.
func (s *socket) reportErrors(family int, gone func(netip.AddrPort)) {
	level, option := unix.IPPROTO_IP, unix.IP_RECVERR
	if family == 1 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVERR
	}
	_ = s.rc.Control(func(fd uintptr) {
		if unix.SetsockoptInt(int(fd), level, option, 1) == nil {
			s.errors = &errorQueue{gone: gone}
		}
	})
}

// drainErrors reads what the socket's error queue holds.
func (s *socket) drainErrors() {
	if s.errors != nil {
		_ = s.rc.Control(s.errors.drain)
	}
}

// drain reads the error queue of the socket fd.
func (q *errorQueue) drain(fd uintptr) {
	if q == nil {
		return
	}
	for range errorBurst {
		var (
			to   endpoint
			room [32]uint64 // aligned as control messages are
			hdr  unix.Msghdr
		)
		hdr.Name = (*byte)(unsafe.Pointer(&to)) //nolint:gosec // the kernel takes pointers to what this frame holds
		hdr.Namelen = unix.SizeofSockaddrInet6
		control := unsafe.Slice((*byte)(unsafe.Pointer(&room)), unsafe.Sizeof(room)) //nolint:gosec // the same memory
		hdr.Control = &control[0]
		hdr.SetControllen(len(control))
		_, _, errno := unix.RawSyscall(unix.SYS_RECVMSG, fd, uintptr(unsafe.Pointer(&hdr)), unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT) //nolint:gosec // as above
		if errno != 0 {
			return
		}
		if saysGone(control[:hdr.Controllen]) {
			if to.Family == unix.AF_INET {
				to = endpoint{Family: to.Family, Port: to.Port, Flowinfo: to.Flowinfo}
			}
			q.gone(to.addrPort())
		}
	}
}

// saysGone reports an ICMP error that means that nobody takes datagrams at
// the destination: port, host or network unreachable, or prohibited. That a
// datagram was too long for the path means nothing of the kind.
func saysGone(control []byte) bool {
	for len(control) >= unix.SizeofCmsghdr {
		hdr := (*unix.Cmsghdr)(unsafe.Pointer(&control[0])) //nolint:gosec // long enough, and aligned: CMSG_ALIGN
		length := int(hdr.Len)
		if length < unix.SizeofCmsghdr || length > len(control) {
			return false
		}
		is4 := hdr.Level == unix.IPPROTO_IP && hdr.Type == unix.IP_RECVERR
		is6 := hdr.Level == unix.IPPROTO_IPV6 && hdr.Type == unix.IPV6_RECVERR
		// struct sock_extended_err begins with the errno, of 32 bits, and the
		// origin, of 8.
		if data := control[unix.CmsgLen(0):length]; (is4 || is6) && len(data) >= 5 {
			fromICMP := data[4] == unix.SO_EE_ORIGIN_ICMP || data[4] == unix.SO_EE_ORIGIN_ICMP6
			return fromICMP && unix.Errno(binary.NativeEndian.Uint32(data)) != unix.EMSGSIZE
		}
		control = control[min((length+7)&^7, len(control)):]
	}
	return false
}
