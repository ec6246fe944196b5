package conn

import (
	"context"
	"log/slog"
	"net/netip"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
	"cleversocks/conn/dial"
	"cleversocks/conn/relay"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
	"cleversocks/udprelay"
)

// charge is what a session takes of its user: one connection, and bytes. The
// zero charge, of a client that nobody knows by name, takes nothing.
type charge struct {
	user    *ratelimit.User
	source  netip.Addr
	usage   *authsvc.Usage
	metrics *metrics.User
}

// enterUser takes one of the user's connections, or refuses the request. What
// it took, release gives back.
func (h *Handler) enterUser(s *session) error {
	if err := h.lapsed(s); err != nil {
		return err
	}
	account := s.identity.Account
	if account == nil {
		return nil
	}
	usage := h.guards.Quotas.Of(account)
	if !usage.Moved(0) {
		return errQuota
	}
	user := h.guards.Users.Enter(account)
	if user == nil {
		return errUserLimit
	}
	if !user.Come(s.client.Addr()) {
		user.Leave()
		return errAddresses
	}
	s.charge = charge{user: user, source: s.client.Addr(), usage: usage, metrics: h.metrics.Users.Of(account.Name)}
	s.charge.metrics.Connections.Inc()
	s.charge.metrics.Active.Add(1)
	return nil
}

// lapsed refuses a request of a user who may not use the proxy now, and was let
// in when that was otherwise: by an earlier request of this connection, or by
// TLS at its begin.
func (h *Handler) lapsed(s *session) error {
	if refusal := h.policy.Load().Auth.Lapsed(s.identity); refusal != nil {
		return &deniedError{rule: string(refusal.Reason)}
	}
	return nil
}

// release gives back what enterUser took.
func (c *charge) release() {
	if c.user == nil {
		return
	}
	c.user.Go(c.source)
	c.user.Leave()
	c.metrics.Active.Add(-1)
}

// meter is what the relay of a session asks about bytes; nil when nobody is to
// be charged. It is there for every user with an account, limited or not:
// a reload may set a limit while the relay runs.
func (c *charge) meter() relay.Meter {
	if c.user == nil {
		return nil
	}
	return c
}

// quotaRetry is when to ask again for the last bytes of a quota, which another
// connection has booked and may give back.
const quotaRetry = 5 * time.Millisecond

// lane is what a direction is limited and counted by.
func (c *charge) lane(d relay.Direction) (*ratelimit.Bucket, *metrics.Counter) {
	if d == relay.Out {
		return &c.user.Down, c.metrics.BytesOut
	}
	return &c.user.Up, c.metrics.BytesIn
}

// Reserve books bytes of the user's quota and bandwidth, before they move: all
// connections together then never get more of either.
func (c *charge) Reserve(d relay.Direction, n int) (granted int, wait time.Duration, err error) {
	bucket, _ := c.lane(d)
	left, more := c.usage.Reserve(int64(n))
	switch {
	case !more:
		return 0, 0, relay.ErrQuota
	case left == 0:
		return 0, quotaRetry, nil
	}
	granted, wait = bucket.Reserve(int(left))
	if int64(granted) < left {
		c.usage.Settle(left-int64(granted), 0)
	}
	return granted, wait, nil
}

// Settle charges what moved of a booking.
func (c *charge) Settle(d relay.Direction, granted, moved int) {
	bucket, counter := c.lane(d)
	bucket.Settle(granted, moved)
	c.usage.Settle(int64(granted), int64(moved))
	counter.Add(moved)
}

// pay charges n bytes that are in hand, as fast as the user may move them.
func (c *charge) pay(ctx context.Context, d relay.Direction, n int) error {
	if c.user == nil {
		return nil
	}
	return relay.Pay(c, d, n, func(wait time.Duration) error {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
}

// datagram charges a datagram's payload. One that is over the bandwidth is
// dropped, and costs nothing.
func (c *charge) datagram(d udprelay.Direction, n int) udprelay.MeterVerdict {
	if c.user == nil {
		return udprelay.MeterPass
	}
	way := relay.In
	if d == udprelay.ToClient {
		way = relay.Out
	}
	bucket, counter := c.lane(way)
	switch {
	case !bucket.Take(int64(n)):
		return udprelay.MeterDrop
	case !c.usage.Moved(int64(n)):
		return udprelay.MeterEnd
	}
	counter.Add(n)
	return udprelay.MeterPass
}

// egress is where the session's connections leave from: the user's addresses,
// or the listener's; zero: as all others do.
func (s *session) egress() dial.Egress {
	l := s.policy.listener(s.listener)
	egress := l.Egress
	if l.SameEgress {
		here := addrPort(s.socket.LocalAddr()).Addr()
		egress.Addresses = []netip.Prefix{netip.PrefixFrom(here, here.BitLen())}
	}
	if s.identity.Account == nil {
		return egress
	}
	return dial.Egress{Addresses: s.identity.Account.Egress}.Or(egress)
}

// routeQuery is what the forwarding rules are asked about a destination of the
// session's.
func (s *session) routeQuery(dest wire.Addr) upstream.Query {
	q := s.queryFor(dest)
	return routeQuery(dest, &q)
}

func routeQuery(dest wire.Addr, q *aclsvc.Query) upstream.Query {
	return upstream.Query{Dest: dest, User: q.Identity.User, Groups: q.Identity.Groups, Source: q.Source, Listener: q.Listener, Asked: q.Asked}
}

// query is what the rules are asked about a session's request.
func (s *session) query() aclsvc.Query {
	return aclsvc.Query{
		Identity: s.identity,
		Source:   s.client.Addr(),
		Listener: s.listener,
		Command:  s.request.Command,
		Name:     s.request.Dest.Name,
		Port:     s.request.Dest.Port,
	}
}

// queryNow is query with the groups that p gives the user. One whom it
// does not know any more keeps the old ones: to end the session is for Revoke.
func (s *session) queryNow(p *Policy) aclsvc.Query {
	q := s.query()
	if p != s.policy {
		if identity, err := p.Auth.Holds(s.identity, s.client.Addr()); err == nil || identity.Account != nil {
			q.Identity = identity
		}
	}
	return q
}

// judgeName refuses before DNS is asked what no address could make right.
func (h *Handler) judgeName(s *session) error {
	return h.judgeNameOf(s, s.request.Dest)
}

// judgeNameOf is judgeName for a destination of the session's.
func (h *Handler) judgeNameOf(s *session, dest wire.Addr) error {
	q := s.queryFor(dest)
	decision, certain := s.policy.ACL.DecideName(&q)
	if certain && s.policy.Dialer.Searches(dest) {
		// The names that it stands for are judged as they are tried (see routed).
		decision, certain = s.policy.ACL.DecideNamed(&q)
	}
	if !certain {
		return nil
	}
	return h.settle(s, decision, netip.Addr{})
}

// noteRule notes what allowed the address reached, once several of a
// destination's were judged.
func (s *session) noteRule(dest wire.Addr) {
	if dest.IsName() {
		q := s.queryFor(dest)
		s.rule = s.policy.ACL.Decide(&q, s.hostIP.Addr()).Rule
	}
}

// settle counts a decision, notes its rule, and turns a refusal into an
// error. addr is invalid when a name was judged.
func (h *Handler) settle(s *session, d aclsvc.Decision, addr netip.Addr) error {
	s.rule = d.Rule
	h.noteDecision(s, s.policy, d, s.request.Dest, addr)
	if d.Allow {
		return nil
	}
	return &deniedError{rule: d.Rule, where: d.Where}
}

// noteDecision counts what the rules of a policy said of a destination, and
// logs what they would have denied. Unlike settle it leaves the session alone:
// an association asks from several goroutines.
func (h *Handler) noteDecision(s *session, p *Policy, d aclsvc.Decision, dest wire.Addr, addr netip.Addr) {
	action := metrics.ActionAllow
	switch {
	case d.Reported:
		action = metrics.ActionReport
		h.log.LogAttrs(s.ctx, slog.LevelInfo, "would be denied",
			slog.String("id", s.ID()), slog.String("client", s.caller()), slog.String("user", s.identity.User),
			slog.String("command", s.request.Command.String()), slog.String("target", dest.String()),
			slog.String("address", addr.String()), slog.String("rule", d.Rule), slog.String("where", d.Where))
	case !d.Allow:
		action = metrics.ActionDeny
	}
	if count := p.Decisions.Of(action, d.Rule); count != nil {
		count.Inc()
	}
}
