// Package netaddr gives IP addresses, prefixes and ports one form each, so that
// what lists, limits and logs compare is the same wherever it came from. It also
// reads them as settings write them.
package netaddr

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Plain is an address as it is compared and counted: an IPv4 address inside an
// IPv6 one comes out, and the zone of a link-local one goes.
func Plain(addr netip.Addr) netip.Addr { return addr.Unmap().WithZone("") }

// PlainPort is Plain with the port.
func PlainPort(at netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(Plain(at.Addr()), at.Port())
}

// Unmap takes an IPv4 address out of an IPv6 one. A zone stays: without it a
// link-local address cannot be sent to.
func Unmap(at netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// Of is a TCP or UDP address, unmapped; of anything else, such as a unix
// socket's, it is invalid.
func Of(a net.Addr) netip.AddrPort {
	switch a := a.(type) {
	case *net.TCPAddr:
		return Unmap(a.AddrPort())
	case *net.UDPAddr:
		return Unmap(a.AddrPort())
	}
	return netip.AddrPort{}
}

// SourceKey is what limits, bans and queues count a client as: an IPv4 address
// itself, an IPv6 address its /64, which one subscriber has whole.
func SourceKey(addr netip.Addr) netip.Addr {
	addr = Plain(addr)
	if addr.Is4() || !addr.IsValid() {
		return addr
	}
	return netip.PrefixFrom(addr, 64).Masked().Addr()
}

// SourcePrefix is a SourceKey as operators read it: a /32 or a /64.
func SourcePrefix(key netip.Addr) netip.Prefix {
	if key.Is4() {
		return netip.PrefixFrom(key, 32)
	}
	return netip.PrefixFrom(key, 64)
}

// ParseAddr reads an address that lists compare: unmapped, and without a zone,
// which is a mistake there.
func ParseAddr(s string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an address", clip(s))
	}
	if addr.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q: a zone means nothing here", clip(s))
	}
	return addr.Unmap(), nil
}

// ParsePrefix reads a CIDR, as UnmapPrefix makes it, or a single address.
func ParsePrefix(s string) (netip.Prefix, error) {
	if !strings.Contains(s, "/") {
		addr, err := ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, err
		}
		return Single(addr), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR", clip(s))
	}
	return UnmapPrefix(p), nil
}

// Single is the prefix that holds one address.
func Single(addr netip.Addr) netip.Prefix {
	addr = Plain(addr)
	return netip.PrefixFrom(addr, addr.BitLen())
}

// UnmapPrefix makes a prefix of IPv4-mapped addresses the IPv4 one, since
// addresses are unmapped before they are compared, and clears host bits.
func UnmapPrefix(p netip.Prefix) netip.Prefix {
	if p.Addr().Is4In6() && p.Bits() >= 96 {
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked()
}

// ParsePort reads a port, 0 to 65535.
func ParsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("port %q is not a number from 0 to 65535", clip(s))
	}
	return uint16(n), nil
}

// SplitHostPort reads HOST:PORT. An IPv6 address is in brackets, which go.
func SplitHostPort(s string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not HOST:PORT", clip(s))
	}
	port, err = ParsePort(text)
	return host, port, err
}

// clip bounds what an error repeats of a text.
func clip(s string) string {
	const most = 80
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}
