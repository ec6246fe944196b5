package conn

import (
	"cmp"
	"context"
	"net"
	"net/netip"

	"cleversocks/authsvc/gssapi"
	"cleversocks/conn/cause"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks5"
	"cleversocks/metrics"
	"cleversocks/udprelay"
)

// commands runs the two commands that open something for others to come to.
type commands struct {
	judge         *judge
	replies       *replies
	access        *AccessLog
	panics        *task.Reporter
	quotaExceeded *metrics.Counter
	waits         func(*session) // is told of a BIND that waits for its peer
}

// associate serves UDP ASSOCIATE (RFC 1928 §7) from the reply to the end of
// the association, which is that of its control connection, and closes that.
func (c *commands) associate(s *session) {
	defer closePolitely(s.ctx, s.conn)
	defer func() {
		if p := recover(); p != nil {
			s.panicked(c.panics, "conn", p)
		}
	}()
	var protect udprelay.Protection
	if wrapped, ok := s.conn.(*gssapi.Conn); ok {
		protect = wrapped.Datagrams()
	}
	relay, via := s.policy.UDP, s.associateVia()
	s.policy = s.policy.lasting(s.listener)
	result := relay.Serve(s.ctx, udprelay.Request{
		ID: s.ID(), Control: s.forCommand(), Client: s.client, Requested: s.request.Dest, Identity: s.identity,
		Advertise:  s.advertised(),
		Decide:     c.judge.decideNow(s),
		Generation: func() uint64 { return c.judge.current.Load().Generation },
		Complete:   c.judge.completeNow(s),
		Resolve:    c.judge.resolveNow(s),
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
		Upstream: via, ReplyCode: replyCode, Flow: c.flows(s),
	})
	s.counters.In.Store(result.BytesIn)
	s.counters.Out.Store(result.BytesOut)
	s.code = result.Reply
	if s.code == wire.ReplySucceeded && !s.replied {
		result.Err = mark(cmp.Or(result.Err, errClientBroke), errClientBroke) // the reply did not reach it
	}
	c.replies.commandEnded(s, result.Cause, result.Err)
	if s.cause == cause.Quota {
		c.quotaExceeded.Inc()
	}
	c.replies.metrics.Requests.Of(s.request.Command.String(), s.code.String()).Inc()
}

// flows takes what each destination of an association has moved; nil: nobody
// wants to know.
func (c *commands) flows(s *session) func(*udprelay.Flow) {
	if !c.access.keepsFlows() {
		return nil
	}
	return func(f *udprelay.Flow) { c.access.flow(s, f) }
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
	q := s.routeQuery(s.datagramsTo())
	if name := s.policy.Routes.RouteDatagrams(q).Upstream(); name != "" {
		s.hop = &hop{name: name}
	}
	return s.policy.AssociateVia(q, s.origin())
}

// datagramsTo is the one destination of the session's datagrams: that of a flow
// which a packet filter has turned here. An association has none.
func (s *session) datagramsTo() wire.Addr {
	if s.request.Protocol == wire.Transparent {
		return s.request.Dest
	}
	return wire.Addr{}
}

func (s *session) replySOCKS5(code wire.ReplyCode, bound netip.AddrPort) error {
	var buf [22]byte
	_, err := s.conn.Write(socks5.AppendReply(buf[:0], code, bound))
	return err
}
