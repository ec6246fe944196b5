package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"cleversocks/conn"
	"cleversocks/conn/adopt"
	"cleversocks/conn/dial"
	"cleversocks/conn/relay"
	"cleversocks/conn/task"
	"cleversocks/metrics"
	"cleversocks/resolver"
	"cleversocks/supervisor/config"
)

// outbound is how destinations are reached and served: the resolver, and what
// every policy needs for dials and relays.
type outbound struct {
	log      *slog.Logger
	metrics  *metrics.Registry
	resolver *resolver.Resolver
	history  *dial.History // outlives the policies, as do the spares and the pools
	spares   *dial.Spares
	panics   *task.Reporter
	pools    *relay.Pools
}

// dialHistory is for how many destinations the address that won is remembered.
const dialHistory = 4096

// Prepare verifies the resolver's settings, and fills in how the policy dials
// and relays.
func (o *outbound) Prepare(_ context.Context, d *draft) (change, error) {
	cfg := d.cfg
	resolve, err := o.resolver.Prepare(resolverOptions(cfg, o.log, o.metrics))
	if err != nil {
		return nil, fmt.Errorf("resolver: %w", err)
	}
	d.policy.Dialer, d.policy.Sockets = o.dialer(cfg), socketOptions(cfg)
	d.policy.Timeouts = conn.Timeouts{Handshake: cfg.Limits.HandshakeTimeout.D(), Connect: cfg.Limits.ConnectTimeout.D()}
	d.policy.Relay = o.relay(cfg)
	return resolverChange{resolve}, nil
}

// resolverChange is the resolver's own change as one of ours.
type resolverChange struct{ of *resolver.Change }

// Commit puts the resolver's options in force.
func (c resolverChange) Commit(context.Context) { c.of.Commit() }

// Rollback leaves them as they were.
func (c resolverChange) Rollback(context.Context) { c.of.Rollback() }

func (o *outbound) dialer(cfg *config.Config) *dial.Dialer {
	sockets := socketOptions(cfg)
	return dial.New(dial.Options{
		Lookup:         o.resolver.Lookup,
		Known:          o.resolver.Known,
		Search:         o.resolver.Search,
		ConnectTimeout: cfg.Limits.ConnectTimeout.D(),
		Family:         dialFamily(cfg.Resolver.Family),
		KeepAlive:      sockets.KeepAlive,
		NoDelay:        sockets.NoDelay,
		Congestion:     cfg.Relay.Congestion,
		Egress:         cfg.Egress.Options(),
		History:        o.history,
		Spares:         o.spares,
		Panics:         o.panics,
		Metrics:        o.metrics.Dial,
	})
}

// socketOptions are what settings say of every connection's sockets.
func socketOptions(cfg *config.Config) adopt.Options {
	keepalive := cfg.Relay.Keepalive
	return adopt.Options{NoDelay: cfg.Relay.NoDelay, KeepAlive: net.KeepAliveConfig{
		Enable: keepalive.Idle > 0, Idle: keepalive.Idle.D(), Interval: keepalive.Interval.D(), Count: keepalive.Count,
	}}
}

func (o *outbound) relay(cfg *config.Config) relay.Options {
	engines := map[string]relay.Engine{"auto": relay.EngineAuto, "splice": relay.EngineSplice, "copy": relay.EngineCopy}
	return relay.Options{
		Engine:     engines[cfg.Relay.Engine],
		BufferSize: int(cfg.Relay.BufferSize),
		Idle:       cfg.Limits.IdleTimeout.D(),
		Metrics:    &o.metrics.Relay,
		Pools:      o.pools,
	}
}

// resolverOptions is the [resolver] section as the resolver takes it.
func resolverOptions(cfg *config.Config, log *slog.Logger, m *metrics.Registry) resolver.Options {
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
		Logger:  log,
		Metrics: m.DNS,
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
