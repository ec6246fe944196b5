package conn

import (
	"context"
	"net"

	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/udprelay"
)

// AssociateVia is Policy.AssociateVia by forwarding rules. Rules that name
// destinations or ports say nothing about the way of an association, only what
// may not go it (astray). Where a rule leads to an
// upstream that carries none, or rejects, the association is refused: its
// datagrams must not leave another way.
func AssociateVia(router *upstream.Router) func(upstream.Query, upstream.Origin) func(context.Context) (udprelay.Upstream, error) {
	return func(q upstream.Query, from upstream.Origin) func(context.Context) (udprelay.Upstream, error) {
		route := router.RouteDatagrams(q).For(from)
		switch route.Action {
		case upstream.Reject:
			return func(context.Context) (udprelay.Upstream, error) {
				return udprelay.Upstream{}, &deniedError{rule: route.Rule}
			}
		case upstream.Via:
			return func(ctx context.Context) (udprelay.Upstream, error) {
				control, at, info, err := route.Associate(ctx)
				if err != nil {
					return udprelay.Upstream{}, err
				}
				return udprelay.Upstream{Relay: at, Control: &releasing{Conn: control, release: info.Release}}, nil
			}
		case upstream.Direct:
		}
		return nil
	}
}

// astray is the forwarding rule that a datagram to a destination, or a peer
// from there, would get around; "" when there is none. What a rule of now
// rejects neither goes nor comes; and what the association's rules send
// through another upstream must not leave this way, only because it has one
// for all. A BIND is served by this host itself whatever upstreams there are.
func (s *session) astray(now *Policy, dest wire.Addr) (rule string) {
	q := s.routeQuery(dest)
	if route := now.Routes.Route(q); route.Action == upstream.Reject {
		return route.Rule
	}
	if s.request.Command == wire.CommandBind {
		return ""
	}
	route := s.policy.Routes.Route(q)
	if route.Action == upstream.Via && route.Upstream() != s.via().name {
		return route.Rule
	}
	return ""
}

// releasing is a connection whose end is the end of a place at an upstream.
type releasing struct {
	net.Conn
	release func()
}

// Close closes the connection and gives the place back.
func (r *releasing) Close() error {
	r.release()
	return r.Conn.Close()
}
