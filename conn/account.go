package conn

import (
	"context"
	"net/netip"
	"time"

	"cleversocks/aclsvc/ratelimit"
	"cleversocks/authsvc"
	"cleversocks/conn/relay"
	"cleversocks/metrics"
	"cleversocks/udprelay"
)

// charge is what a session takes of its user: one connection, and bytes. The
// zero charge, of a client that nobody knows by name, takes nothing.
type charge struct {
	user    *ratelimit.User
	usage   *authsvc.Usage
	metrics *metrics.User
}

// accounts books what sessions take of their users.
type accounts struct {
	judge   *judge
	guards  *Guards
	metrics *metrics.Users
}

// enter takes one of the user's connections, or refuses the request. What it
// took, release gives back.
func (a *accounts) enter(s *session) error {
	if err := a.judge.lapsed(s); err != nil {
		return err
	}
	account := s.identity.Account
	if account == nil {
		return nil
	}
	usage := a.guards.Quotas.Of(account)
	switch {
	case !usage.Moved(0):
		return errQuota
	case account.QuotaBytes > 0 && a.guards.Unsure != nil && a.guards.Unsure():
		return errUnknown
	}
	user := s.charge.user // of enterNow
	if user == nil {
		entered, verdict := a.guards.Users.Enter(s.ctx, account, s.client.Addr(), s)
		if err := userRefusals[verdict]; err != nil {
			return err
		}
		user = entered
	}
	s.charge = charge{user: user, usage: usage, metrics: a.metrics.Of(account.Name)}
	s.charge.metrics.Connections.Inc()
	s.charge.metrics.Active.Add(1)
	return nil
}

// enterNow takes one of the user's connections for enter, which comes next, if that
// takes no waiting. false: enter may have to wait for what other replicas say.
func (a *accounts) enterNow(s *session) bool {
	s.charge.user = a.guards.Users.EnterNow(s.identity.Account, s.client.Addr())
	return s.charge.user != nil
}

// EndSurplus ends the session, of whose connection its user's fleet says late that
// it is one too many.
func (s *session) EndSurplus() { s.cancel(relay.ErrRevoked) }

// userRefusals are what a user's limits say, as errors.
var userRefusals = map[ratelimit.Verdict]error{
	ratelimit.TooMany: errUserLimit, ratelimit.TooWide: errAddresses, ratelimit.Unknown: errUnknown,
}

// release gives back what enter took for a source.
func (c *charge) release(source netip.Addr) {
	if c.user == nil {
		return
	}
	c.user.Leave(source)
	if c.metrics != nil { // else the request was refused before enter
		c.metrics.Active.Add(-1)
	}
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

// moved counts bytes of a tunnel that its relay did not move: those that came before it
// began, and a server's last words. Their user has been charged.
func (s *session) moved(d relay.Direction, n int) {
	sum := &s.counters.In
	if d == relay.Out {
		sum = &s.counters.Out
	}
	sum.Add(int64(n))
	switch m := s.policy.Relay.Metrics; {
	case m == nil:
	case d == relay.Out:
		m.BytesOut.Add(n)
	default:
		m.BytesIn.Add(n)
	}
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
