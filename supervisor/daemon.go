package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"github.com/thejerf/suture/v4"

	"cleversocks/aclsvc"
	"cleversocks/authsvc"
	"cleversocks/conn"
	"cleversocks/conn/dial"
	"cleversocks/conn/relay"
	"cleversocks/conn/task"
	"cleversocks/conn/upstream"
	"cleversocks/listener/tlsconf"
	"cleversocks/metrics"
	"cleversocks/metrics/admin"
	"cleversocks/resolver"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/shortage"
	"cleversocks/supervisor/usage"
)

// daemon is the running program, for who ends it. Everything else belongs to
// the tree and to the reloader.
type daemon struct {
	options Options
	log     *slog.Logger
	panics  *task.Reporter
	config  *atomic.Pointer[config.Config] // in force
	phase   *atomic.Int32

	tree     *tree
	failed   <-chan error // the root has ended
	cancel   context.CancelFunc
	reloader *reloader
	idle     *idleExit
	asked    chan struct{} // 1: an operator wants a drain
	notify   *notifier
	upgrader *upgrader
	confined *confinement
	// predecessors are the processes of before upgrades that still drain.
	predecessors *predecessors
	active       func() int            // connections
	retired      func(context.Context) // waits until a predecessor has none
	overdue      atomic.Bool           // a predecessor's time is over
	orphaned     bool                  // the predecessor ended before it gave the turn
	// closers give back what the services used, once they have ended.
	closers []func()
}

// The phases of the daemon, for readiness.
const (
	phaseStarting int32 = iota
	phaseReady
	phaseDraining
)

// start builds the daemon, bottom up, and starts its tree last: whatever can
// fail has failed before the first connection is accepted. That is when serves
// becomes true, unless it is already: then nobody is to be served any more.
func start(ctx context.Context, o Options, cfg *config.Config, serves *atomic.Bool) (*daemon, error) {
	m := metrics.With(conn.Labels())
	m.Daemon.BuildInfo(o.Version, o.Commit, runtime.Version())
	m.Daemon.LogLost(o.LostLog)
	d := &daemon{options: o, log: o.Logger, panics: reporter(o.Logger, m), config: new(atomic.Pointer[config.Config]), phase: new(atomic.Int32), asked: make(chan struct{}, 1), notify: &notifier{log: o.Logger}, confined: &confinement{log: o.Logger, program: o.Program.Path}}
	d.predecessors = &predecessors{log: d.log, panics: d.panics, settings: d.config.Load}
	found := unfit(ctx, cfg, nil)
	if o.Inherited.From() == nil { // whose sockets are open
		found = append(found, unbindable(ctx, cfg)...)
	}
	if err := cfg.Invalid(found); err != nil {
		return nil, err
	}
	// First, so that what follows is logged as the settings say.
	if err := d.applyLog(cfg.Log); err != nil {
		return nil, err
	}
	c, err := newCore(ctx, d, m, cfg)
	if err != nil {
		return nil, err
	}
	d.closers = []func(){c.usage.Close, c.resolver.Close, c.pools.Close}
	d.active, d.retired = c.group.Active, c.group.Retire
	d.tree = newTree(d.log, m)
	d.predecessors.tree, d.predecessors.guards = d.tree, c.guards
	// What processes of before have is of the service, too: the service manager
	// would end them with this one.
	connections := func() int { return c.group.Active() + d.predecessors.connections() }
	d.idle = newIdleExit(func() time.Duration { return d.config.Load().Limits.ExitWhenIdle.D() }, connections, c.group.Changed())
	d.predecessors.changed = d.idle.reconsider
	interim := conn.NewInterim(c.group, func() time.Duration { return d.config.Load().Log.Interim.D() })
	ages := conn.NewAges(c.group, func() time.Duration { return d.config.Load().Limits.MaxSessionAge.D() })
	gone := newLapses(d.log, new(atomic.Pointer[authsvc.Users]), c.group.EndLapsed)
	d.reloader = newReloader(d, m, c, interim, ages, gone)
	if err := d.reloader.install(ctx, cfg); err != nil {
		return nil, err
	}
	for _, s := range []service{m.Process, c.access, c.usage, c.locals, c.guards.Throttle, c.guards.once, c.guards.Quotas, c.guards.replays, c.tls} {
		d.tree.add(d.tree.core, s)
	}
	if c.guards.fleet != nil {
		d.tree.add(d.tree.core, c.guards.fleet)
		d.closers = append(d.closers, c.guards.fleet.Close)
	}
	for _, s := range c.resolver.Services() {
		d.tree.add(d.tree.core, s)
	}
	for _, s := range c.pools.Reactors() {
		d.tree.add(d.tree.core, s)
	}
	d.tree.add(d.tree.core, shortage.New(d.log, d.bounds(m, c)))
	d.tree.add(d.tree.control, d.reloader)
	for _, s := range []service{c.group, d.idle, interim, ages, gone} {
		d.tree.add(d.tree.flows, s)
	}
	d.tree.add(d.tree.core, lean{d.log, unmapProgram})
	d.tree.add(d.tree.admin, watchdog{d.notify, func() { c.group.Active() }})
	d.meetStore(ctx, c.guards.fleet)
	if err := d.takeOver(ctx, c); err != nil {
		return nil, err
	}
	if err := d.confined.enter(ctx, cfg, o.Inherited.From()); err != nil {
		return nil, err
	}
	return d, d.begin(ctx, serves)
}

// begin serves, unless the start has ended meanwhile, and says so.
func (d *daemon) begin(ctx context.Context, serves *atomic.Bool) error {
	// The tree outlives ctx: its end is shutdown's to order.
	treeCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	d.cancel = cancel
	d.reloader.warn(ctx) // before its services run, which own what this reads
	if !serves.CompareAndSwap(false, true) {
		cancel()
		return ErrStillborn
	}
	d.failed = d.tree.root.ServeBackground(treeCtx)
	d.phase.Store(phaseReady)
	if p := d.options.Inherited.From(); p == nil {
		d.notify.ready(ctx, "serving")
	} else if err := p.Serving(); err != nil && !d.orphaned { // else it tells the service manager, being the main process
		d.log.LogAttrs(ctx, slog.LevelWarn, "the predecessor is not there to hear that this process serves", slog.Any("err", err))
	}
	d.predecessors.reload(true) // an upgrade is one
	d.log.LogAttrs(ctx, slog.LevelDebug, "ready")
	return nil
}

// reporter hears of contained panics.
func reporter(log *slog.Logger, m *metrics.Registry) *task.Reporter {
	return &task.Reporter{Log: log, Count: func(where string) { m.Conn.Panics.Of(where).Inc() }}
}

// core is what every connection uses, whatever the settings.
type core struct {
	locals   *aclsvc.Locals
	resolver *resolver.Resolver
	pools    *relay.Pools
	access   *conn.AccessLog
	guards   *guards
	group    *conn.Group
	tls      *tlsconf.Keeper
	usage    *usage.Usage
}

func newCore(ctx context.Context, d *daemon, m *metrics.Registry, cfg *config.Config) (*core, error) {
	locals, err := newLocals(ctx, d.log)
	if err != nil {
		return nil, err
	}
	options := resolverOptions(cfg, d.log, m)
	options.Sockets, options.Panics = descriptorBudget().dns, d.panics
	names, err := resolver.New(ctx, options)
	if err != nil {
		return nil, err
	}
	access := conn.NewAccessLog(d.options.Access, m)
	g := newGuards(ctx, cfg, d.log, m, d.options.Inherited.From() != nil)
	c := &core{
		locals: locals, resolver: names, access: access, guards: g,
		pools: relay.NewPools(relay.PoolOptions{Pipes: descriptorBudget().pipes, Full: m.Limits.Of(metrics.LimitPipes).Inc}),
		group: conn.NewGroup(ctx, conn.Options{
			Log: d.log, Metrics: m, Access: access, Guards: g.Guards, Panics: d.panics,
			DrainTimeout: func() time.Duration {
				if d.overdue.Load() {
					return 0
				}
				return d.config.Load().Drain.Timeout.D()
			},
			Elsewhere: func() int {
				if d.config.Load().Limits.MaxConnections == 0 {
					return 0 // what the descriptors of this process carry
				}
				return d.predecessors.connections()
			},
		}),
	}
	c.tls = tlsconf.NewKeeper(tlsconf.KeeperOptions{Log: d.log, Panics: d.panics, Expires: m.Listener.Expires, Changed: func() { c.group.Revoke() }})
	g.tables = append(g.tables, ticketKeys(c.tls))
	c.usage = newUsage(d, m, cfg, c.group)
	return c, nil
}

func newLocals(ctx context.Context, log *slog.Logger) (*aclsvc.Locals, error) {
	return aclsvc.NewLocals(aclsvc.LocalsOptions{OnError: func(err error) {
		log.LogAttrs(ctx, slog.LevelWarn, "the host's own addresses cannot be read; the last ones stay", slog.Any("err", err))
	}})
}

// newReloader makes the reloader with all its parts. Their order matters: a
// part comes behind those whose results it uses, when it prepares as when it
// commits.
func newReloader(d *daemon, m *metrics.Registry, c *core, interim *conn.Interim, ages *conn.Ages, gone *lapses) *reloader {
	log, policy := d.log, c.group.Policy
	sockets := &listeners{log: log, metrics: m, tree: d.tree, handler: c.group, health: new(listenerHealth), inherited: d.options.Inherited}
	ready := d.readiness(sockets.health)
	operator := newOperator(d, m, c, ready)
	operator.joins(gone.reconsider)
	status := &endpoint{log: log, tree: d.tree, inherited: d.options.Inherited, options: func(cfg *config.Config) admin.Options {
		return admin.Options{
			Metrics: m.WritePrometheus, Ready: ready, Degraded: operator.degraded, Version: d.options.Version,
			API: operator.functions(), Pprof: cfg.Admin.Pprof, Log: log, Tasks: d.panics,
			Full:  m.Limits.Of(metrics.LimitAdmin).Inc,
			Hosts: func() []string { return d.config.Load().Admin.Hosts },
		}
	}}
	health := &healthPort{log: log, tree: d.tree, panics: d.panics, ready: ready, inherited: d.options.Inherited}
	who := &accounts{log: log, metrics: m, guards: c.guards, queue: authsvc.NewQueue(authsvc.QueueOptions{Gauge: m.Auth.Waiting})}
	inForce := onCommit(func(_ context.Context, next *draft) {
		operator.users.Store(next.users)
		gone.users.Store(next.users)
		c.guards.putOut(next.users)
		m.Users.Retain(func(name string) bool { return next.users.Account(name) != nil })
	})
	closed := staysClosed{d.options.Inherited.From()}
	parts := []part{
		closed,
		partFunc(verify),
		d.confined,
		partFunc(d.prepareLog),
		sockets,
		&doors{log: log, metrics: m, keeper: c.tls, shaking: conn.NewHandshakeQueue(m.Listener.TLSWaiting)},
		status,
		health,
		who,
		&rules{log: log, metrics: m, locals: c.locals},
		&outbound{log: log, metrics: m, resolver: c.resolver, history: dial.NewHistory(dialHistory), spares: dial.NewSpares(descriptorBudget().races, m.Limits.Of(metrics.LimitRaces).Inc), panics: d.panics, pools: c.pools},
		&routes{log: log, metrics: m, policy: policy},
		newCommands(log, m, c.guards),
		c.guards,
		onCommit(func(_ context.Context, next *draft) { c.access.SetMode(conn.AccessMode(next.cfg.Log.Access)) }),
		// From here on the policy is in force.
		onCommit(func(_ context.Context, next *draft) { c.group.SetPolicy(next.policy); d.config.Store(next.cfg) }),
		inForce,
		onCommit(func(_ context.Context, next *draft) { c.usage.Set(usageSettings(next.cfg)) }),
		onCommit(func(_ context.Context, next *draft) { m.ACL.Retain(next.policy.ACL.Deciders()) }),
		&pools{log: log, metrics: m, tree: d.tree, running: make(map[*upstream.Pool]suture.ServiceToken)},
		onCommit(func(ctx context.Context, next *draft) {
			c.group.SetLimit(connectionLimit(ctx, next.cfg.Limits.MaxConnections, log))
			noteUDP(ctx, next.cfg, log)
		}),
		sockets.serving(),
		status.serving(),
		onCommit(func(context.Context, *draft) { names := slices.Clone(sockets.names); operator.names.Store(&names) }),
		onCommit(func(ctx context.Context, _ *draft) { revoke(ctx, c.group, log) }),
		onCommit(func(context.Context, *draft) {
			d.idle.reconsider()
			interim.Reconsider()
			ages.Reconsider()
			gone.reconsider()
		}),
	}
	r := &reloader{
		load: d.options.Load, loadText: d.options.LoadText, confined: d.confined, log: log, metrics: m, panics: d.panics, parts: parts, sockets: sockets,
		requests: make(chan request), signals: make(chan struct{}, 1), over: make(chan struct{}), ended: make(chan struct{}),
		noted: operator.noteReload, rotate: d.reopenLogs, notify: d.notify,
		people: &people{accounts: who, guards: c.guards, group: c.group, inForce: inForce, lapses: gone},
	}
	r.remains = []part{
		closed,
		who,
		&rules{log: log, metrics: m, locals: c.locals},
		c.guards,
		onCommit(func(_ context.Context, next *draft) { c.group.SetPolicy(next.policy); d.config.Store(next.cfg) }),
		inForce,
	}
	operator.reload, operator.edit, operator.hashing = r.Reload, r.editUsers, who.queue
	d.upgrader = newUpgrader(d, m, c, sockets, status, health, operator)
	r.upgrader, d.upgrader.ended = d.upgrader, r.ended
	operator.upgrade = d.upgrader.Upgrade
	return r
}

// applyLog puts the log's settings in force and reopens its files.
func (d *daemon) applyLog(settings config.Log) error {
	c, err := d.options.PrepareLog(settings)
	if err == nil {
		c.Commit()
	}
	return err
}

// logChange is the log's change as one of ours.
type logChange struct{ of LogChange }

// Commit makes the log what was prepared.
func (c logChange) Commit(context.Context) { c.of.Commit() }

// Rollback closes what was opened for it.
func (c logChange) Rollback(context.Context) { c.of.Rollback() }

func (d *daemon) prepareLog(_ context.Context, next *draft) (change, error) {
	c, err := d.options.PrepareLog(next.cfg.Log)
	if err != nil {
		return nil, err
	}
	return logChange{c}, nil
}

// revoke ends the sessions that the policy in force would refuse.
func revoke(ctx context.Context, g *conn.Group, log *slog.Logger) int {
	n := g.Revoke()
	if n > 0 {
		log.LogAttrs(ctx, slog.LevelInfo, "sessions revoked by a reload", slog.Int("sessions", n))
	}
	return n
}

// readiness is the answer of /readyz.
func (d *daemon) readiness(sockets *listenerHealth) func() error {
	phase := d.phase
	return func() error {
		switch phase.Load() {
		case phaseReady:
			return sockets.ready()
		case phaseDraining:
			return errors.New("draining")
		}
		return errors.New("starting")
	}
}
