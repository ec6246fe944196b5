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

	"cleversocks/conn/dial"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
	"cleversocks/resolver"
	"cleversocks/supervisor/config"
)

// routes are the upstreams' pools at work. Only the reloader's goroutine
// changes them once the daemon runs.
type routes struct {
	d       *daemon
	running map[*upstream.Pool]suture.ServiceToken
}

func newRoutes(d *daemon) *routes {
	return &routes{d: d, running: make(map[*upstream.Pool]suture.ServiceToken)}
}

// build compiles the upstreams and forwarding rules. Pools that did not
// change are those of the policy in force; new ones do nothing yet.
func (r *routes) build(cfg *config.Config) (*upstream.Router, error) {
	upstreams, forward := cfg.Routes()
	return upstream.Compile(upstream.Options{
		Upstreams: upstreams, Forward: forward,
		Dial: r.dialHop, Resolve: r.resolveHop,
		ConnectTimeout: cfg.Limits.ConnectTimeout.D(),
		// What the connections that are kept ready were made with.
		Rewarm:  fmt.Sprint(cfg.Egress, cfg.Relay.Keepalive, cfg.Relay.NoDelay, cfg.Relay.Congestion, cfg.Resolver.Family),
		Metrics: &r.d.metrics.Upstream, Logger: r.d.log,
		Previous: r.inForce(),
	})
}

func (r *routes) inForce() *upstream.Router {
	if policy := r.d.group.Policy(); policy != nil {
		return policy.Routes
	}
	return nil
}

// abandon forgets a router that was built and is not to be.
func (r *routes) abandon(router *upstream.Router) {
	router.Retired(r.inForce(), r.d.metrics.Upstream.Forget)
}

// commit starts the pools that are new in the router now in force, and stops
// those that are gone. Tunnels through these live on.
func (r *routes) commit(ctx context.Context, old, router *upstream.Router) {
	for _, pool := range router.Pools() {
		if _, runs := r.running[pool]; !runs {
			r.d.metrics.Daemon.Restarts(pool.String())
			r.running[pool] = r.d.tree.core.Add(pool)
		}
	}
	for pool, token := range r.running {
		if slices.Contains(router.Pools(), pool) {
			continue
		}
		delete(r.running, pool)
		if err := r.d.tree.core.RemoveAndWait(token, coreTimeout); err != nil && !errors.Is(err, suture.ErrSupervisorNotRunning) {
			r.d.log.LogAttrs(ctx, slog.LevelError, "upstream's service did not stop", slog.String("upstream", pool.Name()), slog.Any("err", err))
		}
	}
	old.Retired(router, r.d.metrics.Upstream.Forget)
}

// errOwnListener is a hop that is this daemon.
var errOwnListener = errors.New("it is this proxy's own listener")

// dialHop connects to a proxy by the policy in force at the time: pools
// outlive policies.
func (r *routes) dialHop(ctx context.Context, hop wire.Addr) (*net.TCPConn, error) {
	policy := r.d.group.Policy()
	return policy.Dialer.Dial(ctx, dial.Request{Dest: hop, Judge: func(addr netip.Addr) error {
		if policy.ACL.IsOwn(addr, hop.Port) {
			return errOwnListener
		}
		return nil
	}})
}

func (r *routes) resolveHop(ctx context.Context, name string) ([]netip.Addr, error) {
	dialer := r.d.group.Policy().Dialer
	dest, err := dialer.Complete(ctx, wire.Addr{Name: name}, dial.Egress{}, nil)
	if err != nil {
		return nil, err
	}
	return dialer.Resolve(ctx, dest.Name, dial.Egress{})
}

// resolverOptions is the [resolver] section as the resolver takes it.
func (d *daemon) resolverOptions(cfg *config.Config) resolver.Options {
	r := cfg.Resolver
	servers := make([]string, len(r.Servers))
	for i, s := range r.Servers {
		servers[i] = string(s)
	}
	return resolver.Options{
		Servers: servers,
		Timeout: r.Timeout.D(),
		Cache: resolver.CacheOptions{
			Size:        r.Cache.Size,
			MinTTL:      r.Cache.MinTTL.D(),
			MaxTTL:      r.Cache.MaxTTL.D(),
			NegativeTTL: r.Cache.NegativeTTL.D(),
			ServeStale:  r.Cache.ServeStale.D(),
			Prefetch:    r.Cache.Prefetch,
		},
		Logger:  d.log,
		Metrics: d.metrics.DNS,
	}
}

// dialFamily is resolver.family as the dialer takes it.
func dialFamily(setting string) dial.Family {
	switch setting {
	case "ipv4":
		return dial.FamilyIPv4
	case "ipv6":
		return dial.FamilyIPv6
	}
	return dial.FamilyAuto
}
