package upstream

import (
	"context"
	"fmt"
	"net"
	"net/netip"

	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
)

// CanAssociate reports whether datagrams can pass: through a single hop of
// SOCKS5 per member, whose relay we can reach.
func (r Route) CanAssociate() bool {
	if r.pool == nil {
		return false
	}
	for _, m := range r.pool.members {
		if len(m.hops) != 1 || m.last().proto != protoSOCKS5 {
			return false
		}
	}
	return true
}

// Associate opens a UDP association with a member (RFC 1928 §4). It lives as
// long as control, which the caller closes, and is not protected by TLS even
// if control is. relay is where the datagrams go.
func (r Route) Associate(ctx context.Context) (control net.Conn, relay netip.AddrPort, info Info, err error) {
	if !r.CanAssociate() {
		return nil, relay, Info{}, &Error{
			Upstream: r.Upstream(), Stage: "request", Code: wire.ReplyCommandNotSupported, Err: ErrNoUDP,
		}
	}
	got, info, fail := r.pool.through(ctx, r.by, func(ctx context.Context, p *prepared, hop Hop) (fail *Error) {
		relay, fail = associate(ctx, p, hop)
		return fail
	})
	if fail != nil {
		return nil, netip.AddrPort{}, Info{}, fail
	}
	info.member.granted()
	info.Bound = relay
	return got.conn, relay, info, nil
}

func associate(ctx context.Context, p *prepared, hop Hop) (netip.AddrPort, *Error) {
	// All zeros: the address that our datagrams will come from is not known
	// yet (RFC 1928 §4).
	from := wire.Addr{IP: netip.IPv4Unspecified()}
	bound, fail := within(ctx, p.conn, func() (wire.Addr, *Error) {
		return socks5Ask(p.conn, hop, wire.CommandUDPAssociate, from)
	})
	if fail != nil {
		return netip.AddrPort{}, fail
	}
	ip := bound.IP
	if !ip.IsValid() && !bound.IsName() || ip.IsValid() && ip.IsUnspecified() {
		// "Here", as many servers say: the address that we reached it at.
		ip = netaddr.Of(p.raw.RemoteAddr()).Addr()
	}
	if bound.Port == 0 || !ip.IsValid() {
		return netip.AddrPort{}, hopError(hop, "request", fmt.Errorf("%w: no usable relay address", ErrRefused))
	}
	return netip.AddrPortFrom(ip, bound.Port), nil
}
