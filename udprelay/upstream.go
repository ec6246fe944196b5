package udprelay

import (
	"context"
	"net"
	"net/netip"

	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
)

// upstream is an association at a SOCKS5 relay: the way of one client port's
// datagrams. Each port has one of its own, since many relays answer only the
// port that spoke first.
type upstream struct {
	to      endpoint
	at      netip.Addr // to's address
	control net.Conn
}

// associate asks the upstream for its half.
func (a *association) associate(ctx context.Context) (*upstream, error) {
	u, err := a.s.Upstream(ctx)
	if err != nil {
		return nil, err
	}
	at := netaddr.Unmap(u.Relay)
	return &upstream{to: endpointOf(at), at: at.Addr(), control: u.Control}, nil
}

// watchUpstream ends the association when its first port's half is gone.
func (a *association) watchUpstream() error {
	_ = discard(a.upstream.control)
	return errUpstreamEnded // unless something else was first
}

// upstreamOf is a port's way; failed or pending when it has none yet.
func (a *association) upstreamOf(p *clientPort, now int64) (*upstream, outcome) {
	if p.isFirst() {
		return a.upstream, relayed
	}
	a.routes.mu.Lock()
	defer a.routes.mu.Unlock()
	switch {
	case p.upstream != nil:
		return p.upstream, relayed
	case now < p.retryAt:
		return nil, failed
	}
	return nil, pending
}

// reachUpstream gets a further port its half and sends what waits for it.
func (a *association) reachUpstream(key waitKey) {
	p, r := key.port, &a.routes
	ctx, cancel := context.WithTimeout(a.ctx, lookupLimit)
	u, err := a.associate(ctx)
	cancel()
	r.mu.Lock()
	switch {
	case err != nil:
		a.r.log.Debug("no association at the upstream for a further port", "id", a.s.ID, "err", err)
		p.retryAt = a.now() + int64(failedTTL)
	case r.closed || r.ports[p.number] != p:
		_ = u.control.Close() // too late
	default:
		p.upstream = u
		a.spawn("upstream watch", func() error {
			_ = discard(u.control)
			_ = u.control.Close()
			r.mu.Lock()
			defer r.mu.Unlock()
			if p.upstream == u {
				p.upstream = nil // the next datagram asks for another
			}
			return nil
		})
	}
	r.mu.Unlock()
	a.names.mu.Lock()
	waited := a.names.dequeue(key)
	a.names.mu.Unlock()
	for _, d := range waited {
		if a.ctx.Err() != nil {
			return
		}
		t := a.routeThrough(d.from, nil, d.dest, a.now())
		if t.what == pending {
			t.what = failed
		}
		a.deliver(d.from, t, d.payload)
	}
}

// routeUpstream judges a destination by what is known of it here and sends it
// to the upstream's relay.
func (a *association) routeUpstream(p *clientPort, raw wire.RawAddr, now int64) target {
	if raw.IP.IsValid() {
		return a.routeThrough(p, nil, wire.Addr{IP: raw.IP.Unmap(), Port: raw.Port}, now)
	}
	e := a.names.normal(raw.Name, now)
	if e == nil {
		return target{what: malformed}
	}
	return a.routeThrough(p, e, e.at(raw.Port), now)
}

func (a *association) routeThrough(p *clientPort, n *name, dest wire.Addr, now int64) target {
	if n != nil && !n.addr.IsName() {
		n = nil // an address in a name's place
	}
	switch {
	case n == nil && dest.IsName(): // one that waited; its decision has no key
		if !a.decide(dest, dest.IP) {
			return target{what: denied}
		}
	case !a.allowed(n, dest, dest.IP, now):
		return target{what: denied}
	}
	u, what := a.upstreamOf(p, now)
	if what != relayed {
		return target{what: what}
	}
	var sock *socket
	if sock, what = a.socketFor(p, u.at, now); what != relayed {
		return target{what: what}
	}
	return target{what: relayed, to: u.to, sock: sock, dest: dest, flow: a.flows.to(dest, netip.AddrPort{}, now)}
}

// unwrap splits an upstream's reply into payload and a header for the client,
// built in room. A reply that names its source by a domain is no use to a
// client; a literal in a domain's place is read as the address it is.
func unwrap(room, b []byte) (head, payload []byte, from netip.AddrPort, ok bool) {
	h, n, err := wire.ParseUDPHeader(b)
	if err != nil || h.Frag != 0 {
		return nil, nil, from, false
	}
	from = netip.AddrPortFrom(h.Dest.IP, h.Dest.Port)
	if !h.Dest.IP.IsValid() {
		addr, err := h.Dest.Addr()
		if err != nil || addr.IsName() {
			return nil, nil, from, false
		}
		from = addr.AddrPort()
	}
	return wire.AppendUDPReplyHeader(room, from), b[n:], from, true
}
