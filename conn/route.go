package conn

import (
	"context"
	"net/netip"
	"slices"

	"cleversocks/aclsvc"
	"cleversocks/conn/dial"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/resolver"
)

// reach opens the connection to a session's destination: where the forwarding
// rules send it, which is straight there when none matches.
func (h *Handler) reach(ctx context.Context, s *session) error {
	route, err := h.routed(ctx, s)
	if err != nil {
		return err
	}
	s.dest = route.Dest
	if route.Action == upstream.Via {
		return h.reachVia(ctx, s, route)
	}
	server, err := s.policy.Dialer.Dial(ctx, dial.Request{
		Dest: route.Dest, Client: s.client.Addr(), Judge: h.judgeFor(s, route.Dest), Egress: route.Egress.Or(s.egress()),
	})
	if err != nil {
		return err
	}
	s.server = server
	s.hostIP = addrPort(server.RemoteAddr())
	if route.Dest.IP.IsValid() {
		s.hostIP = route.Dest.AddrPort() // what was judged; a translator may stand in between
	}
	s.noteRule(route.Dest)
	s.local = addrPort(server.LocalAddr())
	return nil
}

// reachVia opens a tunnel through an upstream. All members and addresses
// tried share the time that a dial has.
func (h *Handler) reachVia(ctx context.Context, s *session, route upstream.Route) error {
	s.upstream = route.Upstream()
	ctx, cancel := context.WithTimeout(ctx, s.policy.Timeouts.Connect)
	defer cancel()
	dests, err := h.upstreamDests(ctx, s, route)
	if err != nil {
		return err
	}
	dial := route.Dial
	if s.method != "" {
		dial = route.DialPlain
	}
	server, info, err := dial(ctx, dests...)
	if err != nil {
		return err
	}
	s.server, s.leaveUpstream = server, info.Release
	s.upstream, s.parent = info.Path(), info.Parent
	s.hostIP = info.Dest.AddrPort() // not valid when the upstream resolved
	if s.hostIP.IsValid() {
		s.noteRule(route.Dest)
	}
	s.local = info.Local
	if bound := info.Bound; bound.Addr().IsValid() && !bound.Addr().IsUnspecified() && bound.Port() != 0 {
		s.bound = bound
	}
	return nil
}

// upstreamDests is what the upstream is asked for, all of it allowed: the
// destination as it is, judged by what is known of it here, or with
// resolve = "local" its addresses.
func (h *Handler) upstreamDests(ctx context.Context, s *session, route upstream.Route) ([]wire.Addr, error) {
	dest := route.Dest
	if !dest.IsName() || !route.ResolvesLocally() {
		return []wire.Addr{dest}, h.judgeKnown(s, dest)
	}
	addrs, err := s.policy.Dialer.Resolve(ctx, dest.Name, dial.Egress{})
	if err != nil {
		return nil, err
	}
	judge := h.judgeFor(s, dest)
	var dests []wire.Addr
	var denied error
	for _, addr := range addrs {
		if err := judge(addr); err != nil {
			denied = &dial.DeniedError{Addr: addr, Err: err}
			continue
		}
		dests = append(dests, wire.Addr{IP: addr.Unmap(), Port: dest.Port})
	}
	if len(dests) == 0 {
		return nil, denied
	}
	// Each address that the upstream cannot reach costs a round trip, and
	// those without IPv6 are many.
	slices.SortStableFunc(dests, func(a, b wire.Addr) int {
		return int(resolver.FamilyOf(a.IP)) - int(resolver.FamilyOf(b.IP))
	})
	return dests[:min(len(dests), maxUpstreamDests)], nil
}

// maxUpstreamDests bounds the addresses that an upstream is asked for.
const maxUpstreamDests = 16

// judgeRewritten judges a request that a rule rewrites: what was asked for by
// what is known of it, and then what is asked for instead.
func (h *Handler) judgeRewritten(s *session, dest wire.Addr) error {
	asked := s.request.Dest
	if !s.named.IsZero() {
		asked = s.named
	}
	if err := h.judgeKnown(s, asked); err != nil {
		return err
	}
	return h.judgeNameOf(s, dest)
}

// judgeKnown is the last word about a destination that nobody resolves here.
func (h *Handler) judgeKnown(s *session, dest wire.Addr) error {
	if !dest.IsName() {
		return h.judgeFor(s, dest)(dest.IP)
	}
	q := s.queryFor(dest)
	decision, _ := s.policy.ACL.DecideName(&q)
	return h.settle(s, decision, netip.Addr{})
}

// judgeFor is the decision about a destination's resolved addresses, as an
// error for the dialer: nil lets it be dialed.
func (h *Handler) judgeFor(s *session, dest wire.Addr) func(netip.Addr) error {
	q := s.queryFor(dest)
	return func(addr netip.Addr) error { return h.settle(s, s.policy.ACL.Decide(&q, addr), addr) }
}

// queryFor is what the rules are asked about a destination of the session's.
func (s *session) queryFor(dest wire.Addr) aclsvc.Query {
	q := s.query()
	q.Name, q.Port = dest.Name, dest.Port
	q.Asked = s.askedFor(dest)
	return q
}

// boundAddress is what the client is told as BND.ADDR: the upstream's word,
// which is nearer to the target, or our own end.
func (s *session) boundAddress() netip.AddrPort {
	if s.bound.IsValid() {
		return s.bound
	}
	return s.local
}
