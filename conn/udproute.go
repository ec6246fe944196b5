package conn

import (
	"context"
	"net"
	"net/netip"

	"cleversocks/authsvc"
	"cleversocks/conn/upstream"
	"cleversocks/udprelay"
)

// AssociateVia is Policy.AssociateVia by forwarding rules. Rules that name
// destinations or ports say nothing about datagrams. Where a rule leads to an
// upstream that carries none, or rejects, the association is refused: its
// datagrams must not leave another way.
func AssociateVia(router *upstream.Router) func(authsvc.Identity, netip.Addr) func(context.Context) (udprelay.Upstream, error) {
	return func(identity authsvc.Identity, _ netip.Addr) func(context.Context) (udprelay.Upstream, error) {
		route := router.RouteDatagrams(identity.User)
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
