package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"github.com/thejerf/suture/v4"

	"cleversocks/conn"
	"cleversocks/conn/dial"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// routes compiles upstreams and forwarding rules.
type routes struct {
	log     *slog.Logger
	metrics *metrics.Registry
	policy  func() *conn.Policy // in force; nil before the first
}

// Prepare compiles the upstreams and forwarding rules. Pools that did not
// change are those of the policy in force; new ones do nothing yet.
func (r *routes) Prepare(_ context.Context, d *draft) (change, error) {
	cfg, old := d.cfg, r.inForce()
	upstreams, forward := cfg.Routes()
	router, err := upstream.Compile(upstream.Options{
		Upstreams: upstreams, Forward: forward,
		Dial: r.dialHop, Resolve: r.resolveHop,
		ConnectTimeout: cfg.Limits.ConnectTimeout.D(),
		// What the connections that are kept ready were made with.
		Rewarm:  fmt.Sprint(cfg.Egress, cfg.Relay.Keepalive, cfg.Relay.NoDelay, cfg.Relay.Congestion, cfg.Resolver.Family),
		Metrics: &r.metrics.Upstream, Logger: r.log,
		Previous: old,
	})
	if err != nil {
		return nil, err
	}
	d.policy.Routes = router
	d.policy.AssociateVia = conn.AssociateVia(router)
	return compiled{of: r, old: old, next: router}, nil
}

func (r *routes) inForce() *upstream.Router {
	if policy := r.policy(); policy != nil {
		return policy.Routes
	}
	return nil
}

// compiled is a router that was compiled, and the one in force then.
type compiled struct {
	of        *routes
	old, next *upstream.Router
}

// Commit does nothing: the router is the policy's, and pools are run later.
func (compiled) Commit(context.Context) {}

// Rollback forgets the metrics of what was compiled and is not to be.
func (c compiled) Rollback(context.Context) {
	c.next.Retired(c.old, c.of.metrics.Upstream.Forget)
}

// pools runs the upstreams' pools, whose health checks dial by the policy in
// force: its changes come after the policy's.
type pools struct {
	log     *slog.Logger
	metrics *metrics.Registry
	tree    *tree
	router  *upstream.Router // whose pools run; nil before the first
	running map[*upstream.Pool]suture.ServiceToken
}

// Prepare has nothing to verify.
func (p *pools) Prepare(_ context.Context, d *draft) (change, error) {
	return effect(func(ctx context.Context) { p.run(ctx, d.policy.Routes) }), nil
}

// run starts the pools that are new in next and stops those that are gone.
// Tunnels through these live on.
func (p *pools) run(ctx context.Context, next *upstream.Router) {
	for _, pool := range next.Pools() {
		if _, runs := p.running[pool]; !runs {
			p.running[pool] = p.tree.add(p.tree.core, pool)
		}
	}
	for pool, token := range p.running {
		if slices.Contains(next.Pools(), pool) {
			continue
		}
		delete(p.running, pool)
		if err := p.tree.core.RemoveAndWait(token, coreTimeout); err != nil && !errors.Is(err, suture.ErrSupervisorNotRunning) {
			p.log.LogAttrs(ctx, slog.LevelError, "upstream's service did not stop", slog.String("upstream", pool.Name()), slog.Any("err", err))
		}
		if !slices.ContainsFunc(next.Pools(), func(other *upstream.Pool) bool { return other.String() == pool.String() }) {
			p.tree.forget(pool.String())
		}
	}
	p.router.Retired(next, p.metrics.Upstream.Forget)
	p.router = next
}

// errOwnListener is a hop that is this daemon.
var errOwnListener = errors.New("it is this proxy's own listener")

// dialHop connects to a proxy by the policy in force at the time: pools
// outlive policies.
func (r *routes) dialHop(ctx context.Context, hop wire.Addr) (*net.TCPConn, error) {
	policy := r.policy()
	return policy.Dialer.Dial(ctx, dial.Request{Dest: hop, Judge: func(addr netip.Addr) error {
		if policy.ACL.IsOwn(addr, hop.Port) {
			return errOwnListener
		}
		return nil
	}})
}

func (r *routes) resolveHop(ctx context.Context, name string) ([]netip.Addr, error) {
	dialer := r.policy().Dialer
	dest, err := dialer.Complete(ctx, wire.Addr{Name: name}, dial.Egress{}, nil)
	if err != nil {
		return nil, err
	}
	return dialer.Resolve(ctx, dest.Name, dial.Egress{})
}
