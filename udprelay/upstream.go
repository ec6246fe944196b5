package udprelay

import (
	"context"
	"net"
	"net/netip"

	"cleversocks/conn/wire"
)

// upstream is the SOCKS5 relay that an association's datagrams go through.
type upstream struct {
	at      netip.AddrPort
	to      endpoint
	control net.Conn
}

// associate asks the upstream for its half.
func (a *association) associate(ctx context.Context) error {
	u, err := a.s.Upstream(ctx)
	if err != nil {
		return err
	}
	at := netip.AddrPortFrom(u.Relay.Addr().Unmap(), u.Relay.Port())
	a.upstream = &upstream{at: at, to: endpointOf(at), control: u.Control}
	return nil
}

// watchUpstream ends the association when its other half is gone.
func (a *association) watchUpstream() error {
	_ = discard(a.upstream.control)
	return errUpstreamEnded // unless something else was first
}

// routeUpstream judges a destination by what is known of it here and sends it
// to the upstream's relay.
func (a *association) routeUpstream(raw wire.RawAddr, now int64) target {
	dest := wire.Addr{IP: raw.IP.Unmap(), Port: raw.Port}
	if !raw.IP.IsValid() {
		addr, ok := a.names.normal(raw.Name)
		if !ok {
			return target{what: malformed}
		}
		dest.IP, dest.Name = addr.IP, addr.Name
	}
	if !a.allowed(dest, dest.IP, now) {
		return target{what: denied}
	}
	sock, err := a.socketFor(a.upstream.at.Addr(), now)
	if err != nil {
		return target{what: failed}
	}
	return target{what: relayed, to: a.upstream.to, sock: sock, dest: dest}
}

// unwrap splits an upstream's reply into payload and a header for the client,
// built in room. A reply that names its source by a domain is no use to a
// client; a literal in a domain's place is read as the address it is.
func unwrap(room, b []byte) (head, payload []byte, ok bool) {
	h, n, err := wire.ParseUDPHeader(b)
	if err != nil || h.Frag != 0 {
		return nil, nil, false
	}
	from := netip.AddrPortFrom(h.Dest.IP, h.Dest.Port)
	if !h.Dest.IP.IsValid() {
		addr, err := h.Dest.Addr()
		if err != nil || addr.IsName() {
			return nil, nil, false
		}
		from = addr.AddrPort()
	}
	return wire.AppendUDPReplyHeader(room, from), b[n:], true
}
