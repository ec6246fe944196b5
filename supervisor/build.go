package supervisor

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"syscall"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn"
	"cleversocks/conn/dial"
	"cleversocks/conn/relay"
	"cleversocks/supervisor/config"
)

// builder turns settings into policy snapshots. What must outlive a snapshot
// (the dial history, the generation) is here.
type builder struct {
	d          *daemon
	generation uint64
	history    *dial.History
	queue      *authsvc.Queue
	commands   commands
}

// dialHistory is for how many destinations the address that won is remembered.
const dialHistory = 4096

func newBuilder(d *daemon) *builder {
	return &builder{
		d: d, history: dial.NewHistory(dialHistory), queue: authsvc.NewQueue(authsvc.QueueOptions{Gauge: d.metrics.Auth.Waiting}),
		commands: newCommands(d),
	}
}

// build makes a snapshot, and the users for the guards. Nothing of the daemon
// changes.
func (b *builder) build(cfg *config.Config, listeners []netip.AddrPort, adminAt net.Addr) (*conn.Policy, *authsvc.Users, error) {
	if tcp, ok := adminAt.(*net.TCPAddr); ok {
		listeners = append(listeners, tcp.AddrPort())
	}
	acl, err := b.acl(cfg, listeners)
	if err != nil {
		return nil, nil, err
	}
	auth, users, err := b.auth(cfg)
	if err != nil {
		return nil, nil, err
	}
	router, err := b.d.routes.build(cfg)
	if err != nil {
		return nil, nil, err
	}
	b.generation++
	return &conn.Policy{
		Generation:   b.generation,
		Auth:         auth,
		ACL:          acl,
		Decisions:    b.d.metrics.ACL.Decisions(acl.Deciders()),
		Revoke:       cfg.Reload.Revoke,
		Dialer:       b.dialer(cfg),
		Routes:       router,
		AssociateVia: conn.AssociateVia(router),
		Timeouts:     conn.Timeouts{Handshake: cfg.Limits.HandshakeTimeout.D(), Connect: cfg.Limits.ConnectTimeout.D()},
		Relay:        b.relay(cfg),
		UDP:          b.commands.udp,
		Bind:         b.commands.bind,
	}, users, nil
}

func (b *builder) dialer(cfg *config.Config) *dial.Dialer {
	keepalive := cfg.Relay.Keepalive
	return dial.New(dial.Options{
		Lookup:         b.d.resolver.Lookup,
		ConnectTimeout: cfg.Limits.ConnectTimeout.D(),
		Family:         dialFamily(cfg.Resolver.Family),
		KeepAlive: net.KeepAliveConfig{
			Enable: true, Idle: keepalive.Idle.D(), Interval: keepalive.Interval.D(), Count: keepalive.Count,
		},
		NoDelay:    cfg.Relay.NoDelay,
		Congestion: cfg.Relay.Congestion,
		Egress:     cfg.Egress.Options(),
		History:    b.history,
		Metrics:    b.d.metrics.Dial,
	})
}

func (b *builder) relay(cfg *config.Config) relay.Options {
	engines := map[string]relay.Engine{"auto": relay.EngineAuto, "splice": relay.EngineSplice, "copy": relay.EngineCopy}
	return relay.Options{
		Engine:     engines[cfg.Relay.Engine],
		BufferSize: int(cfg.Relay.BufferSize),
		Idle:       cfg.Limits.IdleTimeout.D(),
		Metrics:    &b.d.metrics.Relay,
		Pools:      b.d.relayPools,
	}
}

func (b *builder) decisionPanicked(p any, q aclsvc.Query) {
	b.d.metrics.Conn.Panics.Of("decision").Inc()
	b.d.log.Error("panic in a decision: denied", "panic", p, "client", q.Source, "target", q.Name)
}

func accessMode(setting string) conn.AccessMode { return conn.AccessMode(setting) }

// carried is how many connections the descriptor limit carries: two
// descriptors a connection, and headroom for pipes, listeners, files and
// look-ups.
func carried() (connections int, descriptors uint64) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		limit.Cur = 1024
	}
	return max((int(min(limit.Cur, 1<<30))-reservedDescriptors)/2, 16), limit.Cur
}

// connectionLimit is max_connections, or what the descriptor limit carries.
func (d *daemon) connectionLimit(ctx context.Context, configured int) int {
	carries, descriptors := carried()
	switch {
	case configured == 0:
		return carries
	case configured > carries:
		d.log.LogAttrs(ctx, slog.LevelWarn, "limits.max_connections is more than the descriptor limit carries: raise the limit (ulimit -n, LimitNOFILE=)",
			slog.Int("max_connections", configured), slog.Uint64("descriptors", descriptors), slog.Int("carries", carries))
	}
	return configured
}

// reservedDescriptors are for everything but connections: relay pipes (64
// at most are kept), listeners, logs, DNS.
const reservedDescriptors = 256
