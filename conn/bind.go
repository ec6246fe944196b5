package conn

import (
	"net/netip"

	"cleversocks/bind"
	"cleversocks/conn/wire"
)

// bind serves BIND (RFC 1928 §4) up to its second reply, and reports whether
// there is a tunnel to the peer that connected.
func (c *commands) bind(d *driver) bool {
	s := d.session
	d.release() // from here on the wait ends with the context by itself, and answers
	result := s.policy.Bind.Serve(s.ctx, bind.Request{
		Control: s.forCommand(), Client: s.client, Requested: s.request.Dest, Identity: s.identity,
		Advertise: s.advertised(),
		Facing: func(peer, here netip.Addr) (netip.Addr, bind.SetUp, error) {
			egress := s.policy.Routes.RouteDatagrams(s.routeQuery(wire.Addr{IP: peer})).Egress
			at, setUp, err := s.policy.Dialer.Facing(peer, here, egress.Or(s.egress()))
			if at == peer && at.Is4() == here.Is4() && s.atDoor().reachedAt.IsValid() {
				// A peer on this host looks for it anywhere: then the address of the load
				// balancer, which is the one that the client knows.
				at = netip.Addr{}
			}
			return at, setUp, err
		},
		Decide:    c.judge.decideNow(s),
		Complete:  c.judge.completeNow(s),
		Resolve:   c.judge.resolveNow(s),
		ReplyCode: replyCode,
		Reply: func(code wire.ReplyCode, addr netip.AddrPort) error {
			if code == wire.ReplySucceeded && !s.waiting.Load() { // the first of two
				s.local = addr
				c.waits(s)
			}
			_, err := s.conn.Write(d.machine.AppendReply(nil, code, addr))
			s.replied = err == nil // the last of two counts
			return err
		},
	})
	s.rule, s.hostIP = result.Rule, result.PeerAddr
	s.code = result.Reply
	c.replies.metrics.Requests.Of(s.request.Command.String(), s.code.String()).Inc()
	if result.Peer == nil {
		c.replies.commandEnded(s, result.Cause, result.Err)
		return false
	}
	s.server = result.Peer
	s.judged(result.Judged)
	return d.passAhead(result.Early)
}
