package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"

	"cleversocks/authsvc"
	"cleversocks/conn"
	"cleversocks/listener/proxyproto"
	"cleversocks/listener/tlsconf"
	"cleversocks/metrics"
	"cleversocks/supervisor/config"
)

// doors are what the listeners do to a connection before its protocol is
// known. They come behind the sockets, whose policies they complete.
type doors struct {
	log     *slog.Logger
	metrics *metrics.Registry
	keeper  *tlsconf.Keeper
	shaking *authsvc.Queue  // the handshakes of all doors
	open    []*tlsconf.Door // of the settings in force
}

// doorChange is the TLS of a configuration's listeners, read from its files
// once more.
type doorChange struct {
	of   *doors
	open []*tlsconf.Door
}

// Prepare reads the files of every TLS listener, and completes the policies.
func (ds *doors) Prepare(ctx context.Context, d *draft) (change, error) {
	c := &doorChange{of: ds}
	for _, key := range d.sockets.order {
		name := d.sockets.next[key].Name()
		policy := d.policy.Listeners[name]
		if err := c.complete(&policy, d.sockets.next[key], d.sockets.settings[key]); err != nil {
			c.Rollback(ctx)
			return nil, err
		}
		d.policy.Listeners[name] = policy
	}
	return c, nil
}

// complete adds a listener's steps to its policy, in the order in which they
// are on the wire: a PROXY header comes before TLS.
func (c *doorChange) complete(policy *conn.Listener, r *running, l config.Listener) error {
	if r.IsUnix() {
		policy.Peers = l.UsersByUID
		policy.Door = append(policy.Door, conn.OverUnix(policy.Peers))
	}
	proxies, err := l.Proxies()
	if err != nil {
		return errors.Join(config.ErrInvalid, err)
	}
	if l.ProxyProtocol != string(proxyproto.Off) {
		policy.Door = append(policy.Door, conn.BehindProxies(proxies, c.of.metrics))
		policy.Forwards = proxies.Reads
		policy.Refuses = also(policy.Refuses, proxies.Refuses)
	}
	if !l.TLS.Enabled() {
		return nil
	}
	door, err := c.of.keeper.Open(l.TLS.Options(r.Name()))
	if err != nil {
		return errors.Join(config.ErrInvalid, err)
	}
	c.open = append(c.open, door)
	policy.Door = append(policy.Door, conn.OverTLS(door, c.of.shaking, c.of.metrics))
	if l.TLS.CRL != "" {
		policy.Revokes = door.Revokes
	}
	return nil
}

// also refuses what either does.
func also(a, b func(netip.Addr) bool) func(netip.Addr) bool {
	if a == nil {
		return b
	}
	return func(peer netip.Addr) bool { return a(peer) || b(peer) }
}

// Commit lets the doors of before go. What was accepted by them goes on.
func (c *doorChange) Commit(context.Context) {
	for _, door := range c.of.open {
		door.Close()
	}
	c.of.open = c.open
}

// Rollback lets the new doors go.
func (c *doorChange) Rollback(context.Context) {
	for _, door := range c.open {
		door.Close()
	}
}
