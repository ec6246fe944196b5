package conn

import (
	"context"
	"net"
	"net/netip"

	"cleversocks/aclsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/conn/cause"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks5"
	"cleversocks/udprelay"
)

// associate serves UDP ASSOCIATE (RFC 1928 §7) from the reply to the end of
// the association, which is that of its control connection, and closes that.
func (h *Handler) associate(s *session) {
	defer closePolitely(s.conn)
	defer func() {
		if p := recover(); p != nil {
			h.panicked(s, "conn", p)
		}
	}()
	var protect udprelay.Protection
	if wrapped, ok := s.conn.(*gssapi.Conn); ok {
		protect = wrapped.Datagrams()
	}
	result := s.policy.UDP.Serve(s.ctx, udprelay.Session{
		ID: s.ID(), Control: s.conn, Client: s.client, Requested: s.request.Dest, Identity: s.identity,
		Advertise:  s.advertised(),
		Decide:     h.decideNow(s),
		Generation: func() uint64 { return h.policy.Load().Generation },
		Complete:   h.completeNow(s),
		Resolve:    h.resolveNow(s),
		Reply: func(code wire.ReplyCode, bound netip.AddrPort) error {
			if code == wire.ReplySucceeded {
				s.local = bound
				s.relaying.Store(true)
			}
			err := s.replySOCKS5(code, bound)
			s.replied = err == nil
			return err
		},
		Meter: s.countDatagram, Protect: protect,
		Listen: func(ctx context.Context, network string, last netip.AddrPort) (*net.UDPConn, error) {
			egress := s.policy.Routes.RouteDatagrams(s.routeQuery(wire.Addr{})).Egress
			return s.policy.Dialer.ListenUDP(ctx, network, egress.Or(s.egress()), last)
		},
		Upstream: s.associateVia(), ReplyCode: replyCode,
	})
	s.counters.In.Store(result.BytesIn)
	s.counters.Out.Store(result.BytesOut)
	s.code = result.Reply
	if s.code == wire.ReplySucceeded && !s.replied {
		result.Cause = cause.ClientReset // the reply did not reach it
	}
	h.commandEnded(s, result.Cause, result.Err)
	if s.cause == cause.Quota {
		h.metrics.Auth.QuotaExceeded.Inc()
	}
	h.metrics.Conn.Requests.Of(s.request.Command.String(), s.code.String()).Inc()
}

// countDatagram keeps the live counts of an association; what was not sent
// after all is taken off at its end.
func (s *session) countDatagram(d udprelay.Direction, bytes int) udprelay.MeterVerdict {
	if d == udprelay.FromClient {
		s.counters.In.Add(int64(bytes))
	} else {
		s.counters.Out.Add(int64(bytes))
	}
	return s.charge.datagram(d, bytes)
}

// associateVia is how the session's datagrams reach an upstream; nil: they
// go out from here.
func (s *session) associateVia() func(context.Context) (udprelay.Upstream, error) {
	if s.policy.AssociateVia == nil {
		return nil
	}
	s.upstream = s.policy.Routes.RouteDatagrams(s.routeQuery(wire.Addr{})).Upstream()
	return s.policy.AssociateVia(s.routeQuery(wire.Addr{}))
}

func (s *session) replySOCKS5(code wire.ReplyCode, bound netip.AddrPort) error {
	var buf [22]byte
	_, err := s.conn.Write(socks5.AppendReply(buf[:0], code, bound))
	return err
}

// decideNow judges destinations of datagrams, and peers, by the rules in force
// at the time. An address that is not valid is one that an upstream will find.
func (h *Handler) decideNow(s *session) func(wire.Addr, netip.Addr) aclsvc.Decision {
	return func(dest wire.Addr, addr netip.Addr) aclsvc.Decision {
		policy := h.policy.Load()
		q := s.queryNow(policy)
		q.Name, q.Port, q.Asked = dest.Name, dest.Port, s.askedFor(dest)
		d := policy.decide(&q, addr)
		h.noteDecision(s, policy, d, dest, addr)
		if rule := s.astray(policy, dest); rule != "" && d.Allow {
			return aclsvc.Decision{Rule: rule}
		}
		return d
	}
}

// decide judges a destination by its address, or by its name alone when only
// an upstream will know the address.
func (p *Policy) decide(q *aclsvc.Query, addr netip.Addr) aclsvc.Decision {
	if addr.IsValid() {
		return p.ACL.Decide(q, addr)
	}
	d, _ := p.ACL.DecideName(q)
	return d
}

// resolveNow finds the addresses of a name, by the policy in force at the
// time; what the rules deny whatever it resolves to is not asked for.
func (h *Handler) resolveNow(s *session) func(context.Context, wire.Addr) ([]netip.Addr, error) {
	return func(ctx context.Context, dest wire.Addr) ([]netip.Addr, error) {
		policy := h.policy.Load()
		q := s.queryNow(policy)
		q.Name, q.Port, q.Asked = dest.Name, dest.Port, s.askedFor(dest)
		if d, certain := policy.ACL.DecideName(&q); certain && !d.Allow {
			return nil, &deniedError{rule: d.Rule, where: d.Where}
		}
		if rule := s.astray(policy, dest); rule != "" {
			return nil, &deniedError{rule: rule} // not even a name server is to hear of it
		}
		return policy.Dialer.Resolve(ctx, dest.Name, s.egress())
	}
}

// judgeCommand refuses a UDP ASSOCIATE or BIND that the rules, or the
// forwarding rules, deny wherever it would go, before anything is opened for it.
func (h *Handler) judgeCommand(s *session) error {
	q := s.query()
	if d := s.policy.ACL.DecideUnknown(&q); !d.Allow {
		return h.settle(s, d, netip.Addr{})
	}
	if route := s.policy.Routes.RouteDatagrams(s.routeQuery(wire.Addr{})); route.Action == upstream.Reject {
		return &deniedError{rule: route.Rule}
	}
	return nil
}
