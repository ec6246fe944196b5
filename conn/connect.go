package conn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"cleversocks/conn/dial"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/task"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/resolver"
)

// connector is the dialing step: it opens the connection that a request asks
// for, as far as the decision step allows, and notes on the session where it
// goes.
type connector struct {
	judge  *judge
	watch  *clientWatch
	panics *task.Reporter
}

// connect dials as long as the client stays. ahead says that it has sent more
// than its request. w is the way that decide has found, or nil.
func (c *connector) connect(s *session, ahead bool, w *way) (err error) {
	defer c.watch.client(s, ahead)()
	if w != nil {
		err = c.follow(s.ctx, s, w)
	} else {
		err = c.reach(s.ctx, s)
	}
	if why := context.Cause(s.ctx); err != nil && errors.Is(why, errClientGone) {
		return why
	}
	return err
}

// reachSafely is reach whose panic is a failed request, recorded as such.
func (c *connector) reachSafely(ctx context.Context, s *session) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(c.panics, "conn", p)
			err = s.err
		}
	}()
	return c.reach(ctx, s)
}

// reach opens the connection to a session's destination: where the forwarding
// rules send it, which is straight there when none matches.
func (c *connector) reach(ctx context.Context, s *session) error {
	route, err := c.judge.route(ctx, s)
	if err != nil {
		return err
	}
	s.judged(route.Dest)
	route = route.For(s.origin())
	if route.Action == upstream.Via {
		return c.reachVia(ctx, s, route)
	}
	server, err := s.policy.Dialer.Dial(ctx, c.request(s, route))
	if err != nil {
		return err
	}
	return s.connected(server, route)
}

// request is what the dialer is asked for a route that goes straight to its
// destination.
func (c *connector) request(s *session, route upstream.Route) dial.Request {
	return dial.Request{
		Dest: route.Dest, Client: s.client.Addr(), Judge: c.judge.addresses(s, route.Dest), Egress: route.Egress.Or(s.egress()),
	}
}

// way is where a session's connection goes straight to, decided on before
// anything is opened.
type way struct {
	route upstream.Route
	plan  dial.Plan
}

// decide is the first half of reach for whoever must not wait: it finds the way of
// a session by what is known. The error is reach's; or dial.ErrWaits, where a name
// server or an upstream has to be asked, and then nothing is counted: reach is to
// be called.
func (c *connector) decide(s *session, w *way) error {
	route, err := c.judge.routeNow(s)
	switch {
	case err != nil:
		return err
	case route.Action == upstream.Via:
		return dial.ErrWaits
	}
	s.judged(route.Dest)
	if route.Announces() {
		route = route.For(s.origin())
	}
	w.route = route
	return s.policy.Dialer.Prepare(c.request(s, w.route), &w.plan)
}

// follow is the second half, for a way whose first address did not answer: it tries
// the others, and waits for them.
func (c *connector) follow(ctx context.Context, s *session, w *way) error {
	server, err := w.plan.Connect(ctx)
	if err != nil {
		return err
	}
	return s.connected(server, w.route)
}

// connected is for a session whose destination is connected.
func (s *session) connected(server net.Conn, route upstream.Route) error {
	s.server = server
	s.noteEnds(route, netaddr.Of(server.LocalAddr()), netaddr.Of(server.RemoteAddr()))
	return s.announce(server, route)
}

// noteEnds notes where a connection goes from and to.
func (s *session) noteEnds(route upstream.Route, local, remote netip.AddrPort) {
	s.local, s.hostIP = local, remote
	if route.Dest.IP.IsValid() {
		s.hostIP = route.Dest.AddrPort() // what was judged; a translator may stand in between
	}
	s.noteRule(route.Dest)
}

// announce tells a destination who the client is, where a rule wants that. The
// few bytes fit into an empty socket buffer: this cannot block.
func (s *session) announce(server net.Conn, route upstream.Route) error {
	header, err := route.Header()
	if err == nil && len(header) > 0 {
		_, err = server.Write(header)
	}
	if err != nil {
		s.server = nil
		_ = server.Close()
		return notAnnounced(err)
	}
	return nil
}

func notAnnounced(err error) error { return fmt.Errorf("PROXY header: %w", err) }

// reachVia opens a tunnel through an upstream. All members and addresses
// tried share the time that a dial has.
func (c *connector) reachVia(ctx context.Context, s *session, route upstream.Route) error {
	s.hop = &hop{name: route.Upstream()}
	ctx, cancel := context.WithTimeout(ctx, s.policy.Timeouts.Connect)
	defer cancel()
	dests, err := c.upstreamDests(ctx, s, route)
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
	s.server = server
	*s.hop = hop{name: info.Path(), parent: info.Parent, leave: info.Release}
	s.hostIP = info.Dest.AddrPort() // not valid when the upstream resolved
	if s.hostIP.IsValid() {
		s.noteRule(route.Dest)
	}
	s.local = info.Local
	if bound := info.Bound; bound.Addr().IsValid() && !bound.Addr().IsUnspecified() && bound.Port() != 0 {
		s.hop.bound = bound
	}
	return nil
}

// upstreamDests is what the upstream is asked for, all of it allowed: the
// destination as it is, judged by what is known of it here, or with
// resolve = "local" its addresses.
func (c *connector) upstreamDests(ctx context.Context, s *session, route upstream.Route) ([]wire.Addr, error) {
	dest := route.Dest
	if !dest.IsName() || !route.ResolvesLocally() {
		return []wire.Addr{dest}, c.judge.known(s, dest)
	}
	addrs, err := s.policy.Dialer.Resolve(ctx, dest.Name, dial.Egress{})
	if err != nil {
		return nil, err
	}
	allowed := c.judge.addresses(s, dest)
	var dests []wire.Addr
	var denied error
	for _, addr := range addrs {
		if err := allowed(addr); err != nil {
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

// boundAddress is what the client is told as BND.ADDR: the upstream's word,
// which is nearer to the target, or our own end.
func (s *session) boundAddress() netip.AddrPort {
	if bound := s.via().bound; bound.IsValid() {
		return bound
	}
	return s.local
}

// egress is where the session's connections leave from: the user's addresses,
// or the listener's; zero: as all others do.
func (s *session) egress() dial.Egress {
	l := s.policy.listener(s.listener)
	egress := l.Egress
	if l.SameEgress {
		here := s.here()
		egress.Addresses = []netip.Prefix{netip.PrefixFrom(here, here.BitLen())}
	}
	egress.Session = s.identity.Session(time.Now())
	if s.identity.Account == nil {
		return egress
	}
	return dial.Egress{Addresses: s.identity.Account.Egress}.Or(egress)
}
