package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn"
	"cleversocks/conn/relay"
	"cleversocks/conn/task"
	"cleversocks/listener"
	"cleversocks/metrics"
	"cleversocks/metrics/admin"
	"cleversocks/resolver"
	"cleversocks/supervisor/config"
)

// daemon is every part of the running program.
type daemon struct {
	options Options
	log     *slog.Logger
	metrics *metrics.Registry
	config  atomic.Pointer[config.Config]
	started *config.Config // as it was at the start
	phase   atomic.Int32

	tree       *tree
	failed     <-chan error // the root has ended
	cancel     context.CancelFunc
	listeners  *listeners
	group      *conn.Group
	guards     conn.Guards
	once       *authsvc.Once
	access     *conn.AccessLog
	resolver   *resolver.Resolver
	locals     *aclsvc.Locals
	relayPools *relay.Pools
	idle       *idleExit
	interim    *conn.Interim
	reloader   *reloader
	builder    *builder
	routes     *routes
	adminAt    net.Addr // nil: off
}

// The phases of the daemon, for readiness.
const (
	phaseStarting int32 = iota
	phaseReady
	phaseDraining
)

// start builds the daemon, bottom up, and starts its tree last: whatever can
// fail has failed before the first connection is accepted.
func start(ctx context.Context, o Options, cfg *config.Config) (*daemon, error) {
	d := &daemon{options: o, log: o.Logger, metrics: metrics.New()}
	d.config.Store(cfg)
	d.started = cfg
	d.metrics.Daemon.BuildInfo(o.Version, o.Commit, goVersion())
	d.metrics.Daemon.LogLost(o.LostLog)
	// First, so that what follows is logged as the settings say.
	if err := o.ApplyLog(cfg.Log); err != nil {
		return nil, err
	}
	if err := d.buildCore(ctx, cfg); err != nil {
		return nil, err
	}
	d.tree = newTree(d.log, d.metrics)
	d.listeners = &listeners{log: d.log, metrics: d.metrics, ingress: d.tree.ingress.Supervisor, handler: d.group}
	change, err := d.verifyAndOpen(ctx, cfg)
	if err != nil {
		return nil, err
	}
	adminService, err := d.openAdmin(ctx, cfg, change)
	if err == nil {
		err = d.apply(ctx, cfg, change)
	}
	if err != nil {
		return nil, errors.Join(err, change.rollback(ctx))
	}
	d.reloader = newReloader(d)
	d.idle = newIdleExit(func() time.Duration { return d.config.Load().Limits.ExitWhenIdle.D() }, d.group.Active, d.group.Changed())
	d.interim = conn.NewInterim(d.group, func() time.Duration { return d.config.Load().Log.Interim.D() })

	for _, s := range []service{d.metrics.Process, d.access, d.resolver, d.locals, d.guards.Throttle, d.once, d.guards.Quotas} {
		d.add(d.tree.core, s)
	}
	d.add(d.tree.control, d.reloader)
	for _, s := range []service{d.group, d.idle, d.interim} {
		d.add(d.tree.flows, s)
	}
	if adminService != nil {
		d.add(d.tree.admin, adminService)
	}
	// The tree outlives ctx: its end is shutdown's to order.
	treeCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d.cancel = cancel
	d.failed = d.tree.root.ServeBackground(treeCtx)
	d.phase.Store(phaseReady)
	d.announce(ctx, cfg)
	return d, nil
}

// verifyAndOpen opens what listeners the settings add, once the kernel has
// accepted the options that every socket, of dials too, will be given.
func (d *daemon) verifyAndOpen(ctx context.Context, cfg *config.Config) (*change, error) {
	if err := listener.CheckCongestion(cfg.Relay.Congestion); err != nil {
		return nil, fmt.Errorf("%w: relay.congestion: %w", config.ErrInvalid, err)
	}
	return d.listeners.prepare(ctx, cfg)
}

// buildCore makes the parts that every connection uses.
func (d *daemon) buildCore(ctx context.Context, cfg *config.Config) error {
	var err error
	d.locals, err = aclsvc.NewLocals(aclsvc.LocalsOptions{OnError: func(err error) {
		d.log.LogAttrs(ctx, slog.LevelWarn, "the host's own addresses cannot be read; the last ones stay", slog.Any("err", err))
	}})
	if err != nil {
		return err
	}
	d.resolver, err = resolver.New(d.resolverOptions(cfg))
	if err != nil {
		return err
	}
	d.relayPools = relay.NewPools(relay.PoolOptions{Pipes: descriptorBudget().pipes})
	d.access = conn.NewAccessLog(d.options.Access, d.metrics)
	d.guards = d.newGuards(ctx, cfg)
	d.builder = newBuilder(d)
	d.routes = newRoutes(d)
	d.group = conn.NewGroup(ctx, conn.Options{
		Log: d.log, Metrics: d.metrics, Access: d.access, DrainTimeout: d.drainTimeout,
		Guards: d.guards,
	})
	return nil
}

// openAdmin binds the management endpoint; nil when it is off. The default
// address may be taken, by another instance for one: then it is done without.
func (d *daemon) openAdmin(ctx context.Context, cfg *config.Config, change *change) (*admin.Server, error) {
	if cfg.Admin.Address.IsZero() {
		return nil, nil //nolint:nilnil // off is no error and has no server
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	address := cfg.Admin.Address.String()
	socket, err := lc.Listen(ctx, adminNetwork(cfg.Admin.Address), address)
	if err != nil {
		if !cfg.Admin.Configured && errors.Is(err, syscall.EADDRINUSE) {
			d.log.LogAttrs(ctx, slog.LevelWarn, "the default admin port is taken: going on without the admin endpoint; set admin.address to choose another",
				slog.String("address", address))
			return nil, nil //nolint:nilnil // see above
		}
		if own := change.holder(address); own != "" && errors.Is(err, syscall.EADDRINUSE) {
			err = fmt.Errorf("%w by this daemon's own listener %s", syscall.EADDRINUSE, own)
		}
		return nil, fmt.Errorf("admin.address: %s: %w", address, err)
	}
	d.adminAt = socket.Addr()
	return admin.New(socket, admin.Options{
		Metrics: d.metrics.WritePrometheus, Ready: d.ready, Version: d.options.Version,
		API: d.api(), Pprof: cfg.Admin.Pprof, Log: d.log,
		Hosts: func() []string { return d.config.Load().Admin.Hosts },
		Tasks: &task.Reporter{Log: d.log, Count: func(where string) { d.metrics.Conn.Panics.Of(where).Inc() }},
	}), nil
}

func adminNetwork(a config.ListenAddress) string {
	if a.AddrPort.Addr().Is4() {
		return "tcp4"
	}
	return "tcp"
}

// ready is the answer of /readyz.
func (d *daemon) ready() error {
	switch d.phase.Load() {
	case phaseReady:
		return d.listeners.ready()
	case phaseDraining:
		return errors.New("draining")
	}
	return errors.New("starting")
}

func (d *daemon) drainTimeout() time.Duration { return d.config.Load().Drain.Timeout.D() }

// announce says what listens, with the real addresses, and what a careful
// operator should know.
func (d *daemon) announce(ctx context.Context, cfg *config.Config) {
	if d.adminAt != nil {
		d.log.LogAttrs(ctx, slog.LevelInfo, "admin endpoint listens", slog.String("address", d.adminAt.String()))
	}
	d.warn(ctx, cfg)
	d.log.LogAttrs(ctx, slog.LevelDebug, "ready")
}

// warn logs what is allowed and yet hardly meant.
func (d *daemon) warn(ctx context.Context, cfg *config.Config) {
	warnings := slices.Concat(cfg.Warnings, cfg.Exposed(d.listeners.names), foreignSources(ctx, cfg))
	for _, w := range warnings {
		d.log.LogAttrs(ctx, slog.LevelWarn, "configuration", slog.String("warning", w))
	}
}
