// Package transparent is about connections that a packet filter turns to this
// host: their clients speak to servers and know of no proxy.
//
//	nft ... redirect to :1081    rewrites the destination, which conntrack tells
//	nft ... tproxy to :1081      leaves it: it is the connection's own address
package transparent

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"cleversocks/conn/netaddr"
)

// Mode is how connections come to a listener.
type Mode uint8

// The modes of listener.transparent.
const (
	Off      Mode = iota
	Redirect      // by nftables' redirect
	TPROXY        // by nftables' tproxy
)

// ErrNotTurned is a connection that no packet filter has turned here: its
// client has spoken to the listener's own address.
var ErrNotTurned = errors.New("the connection was not turned here by a packet filter")

// SO_ORIGINAL_DST of the kernel's netfilter_ipv4.h, and IP6T_SO_ORIGINAL_DST.
const soOriginalDst = 80

// Destination is where a connection's client meant to go.
func Destination(c net.Conn, mode Mode) (netip.AddrPort, error) {
	tcp, ok := c.LocalAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%w: it is no TCP connection", ErrNotTurned)
	}
	local := netaddr.PlainPort(tcp.AddrPort())
	if mode != Redirect {
		return local, nil
	}
	socket, ok := c.(syscall.Conn)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%T is no socket", c)
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, err
	}
	var asked netip.AddrPort
	if controlErr := raw.Control(func(fd uintptr) { asked, err = original(int(fd), local.Addr().Is4()) }); controlErr != nil {
		return netip.AddrPort{}, controlErr
	}
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOPROTOOPT):
		// Conntrack does not know the connection, or is not there.
		return netip.AddrPort{}, ErrNotTurned
	case err != nil:
		return netip.AddrPort{}, fmt.Errorf("SO_ORIGINAL_DST: %w", err)
	case asked == local:
		return netip.AddrPort{}, ErrNotTurned
	}
	return asked, nil
}

// original is the destination before conntrack rewrote it.
func original(fd int, is4 bool) (netip.AddrPort, error) {
	level := unix.IPPROTO_IPV6
	if is4 {
		level = unix.IPPROTO_IP // of an IPv6 socket with an IPv4 client, too
	}
	// The one getsockopt of the package that has room for both addresses.
	info, err := unix.GetsockoptIPv6MTUInfo(fd, level, soOriginalDst)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var order [2]byte
	binary.NativeEndian.PutUint16(order[:], info.Addr.Port)
	port := binary.BigEndian.Uint16(order[:])
	if is4 {
		// struct sockaddr_in has the address where sockaddr_in6 has Flowinfo.
		var ip [4]byte
		binary.NativeEndian.PutUint32(ip[:], info.Addr.Flowinfo)
		return netip.AddrPortFrom(netip.AddrFrom4(ip), port), nil
	}
	return netaddr.PlainPort(netip.AddrPortFrom(netip.AddrFrom16(info.Addr.Addr), port)), nil
}

// SetOptions prepares a listening socket, before it is bound, for a mode.
func SetOptions(fd int, mode Mode) error {
	if mode != TPROXY {
		return nil
	}
	err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	if domain, domainErr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN); domainErr == nil && domain == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf(`transparent = "tproxy" needs CAP_NET_ADMIN: %w`, err)
	}
	return err
}
