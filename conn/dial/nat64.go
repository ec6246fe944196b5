package dial

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"syscall"

	"cleversocks/resolver"
)

var (
	// anyIPv6 is any address of the internet: a host with a source for it has
	// IPv6.
	anyIPv6 = netip.MustParseAddr("2000::1")
	// wellKnown are the addresses of ipv4only.arpa (RFC 7050 §2.2).
	wellKnown = [...]netip.Addr{netip.MustParseAddr("192.0.0.170"), netip.MustParseAddr("192.0.0.171")}
	// embedded is where an IPv4 address stands in one of IPv6, by the length of
	// the translator's prefix (RFC 6052 §2.2).
	embedded = []struct {
		bits int
		at   [4]int
	}{
		{96, [4]int{12, 13, 14, 15}},
		{64, [4]int{9, 10, 11, 12}},
		{56, [4]int{7, 9, 10, 11}},
		{48, [4]int{6, 7, 9, 10}},
		{40, [4]int{5, 6, 7, 9}},
		{32, [4]int{4, 5, 6, 7}},
	}
)

// connectLiteral connects to an address that was asked for as such. On a host
// that has IPv6 alone an IPv4 address is reached through the network's
// translator, if it has one (RFC 8305 §7.1): no DNS64 had a say in a literal.
func (d *Dialer) connectLiteral(ctx context.Context, to netip.AddrPort, egress Egress) (*net.TCPConn, error) {
	c, err := d.connect(ctx, to, egress)
	if !mayTranslate(to.Addr(), err) {
		return c, err
	}
	if through := d.translated(ctx, to.Addr(), egress); through.IsValid() {
		if c, translatedErr := d.connect(ctx, netip.AddrPortFrom(through, to.Port()), egress); translatedErr == nil {
			return c, nil
		}
	}
	return nil, err
}

// mayTranslate reports whether a failure to connect to a literal may be one of a
// host without IPv4.
func mayTranslate(to netip.Addr, err error) bool {
	return errors.Is(err, syscall.ENETUNREACH) && to.Is4() && !to.IsPrivate() && to.IsGlobalUnicast()
}

// translated is the IPv6 address that stands for one of IPv4 in this network;
// not valid: none does.
func (d *Dialer) translated(ctx context.Context, ip netip.Addr, egress Egress) netip.Addr {
	if d.opts.Lookup == nil || d.usable(anyIPv6, egress) != nil || !d.source(anyIPv6, egress).IsValid() {
		return netip.Addr{}
	}
	answers, err := d.lookup(ctx, "ipv4only.arpa", resolver.IPv6)
	if err != nil {
		return netip.Addr{}
	}
	for _, answer := range answers {
		if through := replaceEmbedded(answer, ip); through.IsValid() {
			return through
		}
	}
	return netip.Addr{}
}

// replaceEmbedded puts an IPv4 address in the place of the well-known one that
// an answer for ipv4only.arpa carries; not valid: it carries none.
func replaceEmbedded(answer, ip netip.Addr) netip.Addr {
	if !answer.Is6() || answer.Is4In6() {
		return netip.Addr{}
	}
	raw, put := answer.As16(), ip.As4()
	for _, e := range embedded {
		var found [4]byte
		for i, at := range e.at {
			found[i] = raw[at]
		}
		if addr := netip.AddrFrom4(found); addr != wellKnown[0] && addr != wellKnown[1] {
			continue
		}
		for i, at := range e.at {
			raw[at] = put[i]
		}
		return netip.AddrFrom16(raw)
	}
	return netip.Addr{}
}
