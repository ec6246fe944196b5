package supervisor

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
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
		Search:         b.d.resolver.Search,
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

// budget is how the descriptor limit is shared out.
type budget struct {
	descriptors uint64
	connections int // at a time
	udp         int // associations among them
	pipes       int // of the relay, each of two descriptors
}

// fixedDescriptors are for what does not grow with the connections: the
// standard ones, epoll, listeners and their spares, logs, the admin endpoint.
const fixedDescriptors = 64

// divide shares a limit out so that all of it can be in use at once: pipes, a
// reserve for what connections need for a moment only (dials that race, DNS,
// BIND), and the connections, of which a quarter may be UDP associations. A
// tunnel takes two descriptors, an association two more.
func divide(descriptors uint64) budget {
	limit := int(min(descriptors, 1<<30))
	b := budget{descriptors: descriptors, pipes: max(min(limit/16, relay.DefaultPipes), 4)}
	rest := max(limit-fixedDescriptors-2*b.pipes, 0)
	rest -= min(rest/8, 1024)
	b.connections = max(rest*2/5, 16)
	b.udp = b.connections / 4
	return b
}

// descriptorBudget is what this process may use.
func descriptorBudget() budget {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		limit.Cur = 1024
	}
	return divide(limit.Cur)
}

// connectionLimit is max_connections, or what the descriptor limit carries.
func (d *daemon) connectionLimit(ctx context.Context, configured int) int {
	b := descriptorBudget()
	switch {
	case configured == 0:
		return b.connections
	case configured > b.connections:
		d.log.LogAttrs(ctx, slog.LevelWarn, "limits.max_connections is more than the descriptor limit carries: raise the limit (ulimit -n, LimitNOFILE=)",
			slog.Int("max_connections", configured), slog.Uint64("descriptors", b.descriptors), slog.Int("carries", b.connections))
	}
	return configured
}

// InForce is what the settings mean that leave it to the machine, by name: for
// this process's limits, which may not be the daemon's.
func InForce(cfg *config.Config) map[string]string {
	b, notes := descriptorBudget(), make(map[string]string)
	if cfg.Limits.MaxConnections == 0 {
		notes["limits.max_connections"] = fmt.Sprintf("%d, with %d descriptors", b.connections, b.descriptors)
	}
	if cfg.UDP.MaxAssociations == 0 {
		notes["udp.max_associations"] = strconv.Itoa(b.udp)
	}
	return notes
}
