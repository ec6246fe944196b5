package supervisor

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strings"
	"sync/atomic"

	"cleversocks/authsvc"
	"cleversocks/conn"
	"cleversocks/conn/task"
	"cleversocks/metrics"
	"cleversocks/supervisor/config"
	"cleversocks/supervisor/upgrade"
)

// upgrader starts a successor and hands over to it. The reloader runs it, one
// upgrade at a time and no reload meanwhile: sockets must not change while they
// are passed on.
type upgrader struct {
	program      upgrade.Program
	log          *slog.Logger
	metrics      *metrics.Registry
	panics       *task.Reporter
	notify       *notifier
	inherited    *upgrade.Inherited
	confined     *confinement
	config       func() *config.Config // in force
	listeners    *listeners
	endpoint     *endpoint
	health       *healthPort
	guards       *guards
	group        *conn.Group
	predecessors *predecessors
	drain        func(*upgrade.Successor) // tells the successor from here on

	busy     atomic.Bool // also when there is a successor
	requests chan upgradeRequest
	ended    <-chan struct{}         // closed when none is begun any more
	done     chan *upgrade.Successor // 1: it serves
}

func newUpgrader(d *daemon, m *metrics.Registry, c *core, sockets *listeners, status *endpoint, health *healthPort, o *operator) *upgrader {
	m.Daemon.Predecessors(d.predecessors.connections)
	return &upgrader{
		program: d.options.Program, log: d.log, metrics: m, panics: d.panics, notify: d.notify, confined: d.confined, config: d.config.Load,
		inherited: d.options.Inherited, listeners: sockets, endpoint: status, health: health, guards: c.guards, group: c.group,
		predecessors: d.predecessors,
		drain: func(s *upgrade.Successor) {
			o.tidings.begin()
			last := &draining{
				log: d.log, panics: d.panics, successor: s, guards: c.guards, group: c.group, tidings: &o.tidings,
				follows: d.reloader.follow, rotate: d.reopenLogs, stop: o.drain, answer: o.answer,
			}
			d.tree.add(d.tree.core, last)
			d.closers = append([]func(){last.farewell}, d.closers...) // the others may take a while
		},
		requests: make(chan upgradeRequest, 1), done: make(chan *upgrade.Successor, 1),
	}
}

// upgradeRequest asks for an upgrade; the reply is given once and is buffered.
type upgradeRequest struct{ reply chan upgradeReply }

type upgradeReply struct {
	pid int
	err error
}

// errBusy refuses a second upgrade while one is under way, or has been done.
var errBusy = errors.New("an upgrade is under way")

// Upgrade starts a successor, waits until it serves, and gives its process id.
// The error is why this process goes on instead.
func (u *upgrader) Upgrade(ctx context.Context) (pid int, err error) {
	if err := u.admit(ctx); err != nil {
		return 0, err
	}
	q := upgradeRequest{make(chan upgradeReply, 1)}
	select {
	case u.requests <- q: // there is room: it is the only one
	case <-ctx.Done():
		u.busy.Store(false)
		return 0, ctx.Err()
	}
	select {
	case r := <-q.reply:
		return r.pid, r.err
	case <-u.ended:
		select {
		case r := <-q.reply: // of just before
			return r.pid, r.err
		default:
			return 0, errStops
		}
	case <-ctx.Done():
		return 0, ctx.Err() // the upgrade goes on
	}
}

// signal asks for an upgrade and does not wait; the log tells what comes of it.
func (u *upgrader) signal(ctx context.Context) {
	if u.admit(ctx) == nil {
		u.requests <- upgradeRequest{make(chan upgradeReply, 1)} // there is room: it is the only one
	}
}

// admit refuses what cannot be begun now.
func (u *upgrader) admit(ctx context.Context) error {
	err := errBusy
	switch {
	case os.Getpid() == 1:
		err = upgrade.ErrPID1
	case upgrade.Followed() != nil:
		err = upgrade.Followed()
	case u.busy.CompareAndSwap(false, true):
		return nil
	}
	u.metrics.Daemon.Upgrades.Of("refused").Inc()
	u.log.LogAttrs(ctx, slog.LevelError, "upgrade refused", slog.Any("err", err))
	return err
}

// run is one upgrade, and reports whether there is a successor.
func (u *upgrader) run(ctx context.Context, q upgradeRequest) bool {
	u.notify.reloading(ctx, "upgrading")
	var successor *upgrade.Successor
	err := u.panics.Contain(ctx, "upgrade", func() (err error) {
		successor, err = u.try(ctx)
		return err
	})
	if err != nil {
		u.busy.Store(false)
		u.metrics.Daemon.Upgrades.Of("failed").Inc()
		u.log.LogAttrs(ctx, slog.LevelError, "upgrade failed: this process goes on", slog.Any("err", err))
		if ctx.Err() == nil {
			u.notify.ready(ctx, "serving; the last upgrade failed: "+oneLine(err))
		}
		q.reply <- upgradeReply{err: err}
		return false
	}
	u.metrics.Daemon.Upgrades.Of("ok").Inc()
	u.notify.succeeded(ctx, successor.PID)
	u.log.LogAttrs(ctx, slog.LevelInfo, "upgraded: the successor serves, and this process drains", slog.Int("pid", successor.PID))
	q.reply <- upgradeReply{pid: successor.PID}
	u.done <- successor
	return true
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// try starts a successor and hands over to it. On an error everything is as it
// was.
func (u *upgrader) try(ctx context.Context) (*upgrade.Successor, error) {
	sockets, owners, err := u.sockets()
	if err != nil {
		return nil, err
	}
	counted := map[string]uint64{"ok": 1}
	u.metrics.Daemon.Upgrades.Each(func(outcome string, n uint64) { counted[outcome] += n })
	s, err := upgrade.Start(ctx, u.successor(), sockets, counted, u.panics)
	if err != nil {
		return nil, u.confined.explain(err)
	}
	u.log.LogAttrs(ctx, slog.LevelInfo, "upgrade: a successor starts", slog.Int("pid", s.PID), slog.String("program", u.program.Path))
	places, err := s.AwaitReady(ctx)
	if err != nil {
		return nil, s.Kill(ctx, u.confined.explain(err))
	}
	taken := make(map[*running]int)
	adminTaken := false
	for _, place := range places {
		if place < 0 || place >= len(owners) {
			continue
		}
		adminTaken = adminTaken || sockets[place].Role == upgrade.RoleAdmin
		if owners[place] != nil {
			taken[owners[place]]++
		}
	}
	if err := u.giveTurn(ctx, s, taken, adminTaken); err != nil {
		return nil, err
	}
	u.endpoint.ownsFile(!adminTaken)
	u.predecessors.leave()
	u.drain(s)
	return s, nil
}

// successor is the program with what it cannot find out by itself.
func (u *upgrader) successor() upgrade.Program {
	p := u.program
	p.Sandbox, p.LogIn, p.Sessions = u.confined.state(), u.config().Auth.Required, u.group.Numbered()
	return p
}

// giveTurn stops accepting and hands over. Nobody accepts until the successor
// does, or, after an error or a panic, this process again.
func (u *upgrader) giveTurn(ctx context.Context, s *upgrade.Successor, taken map[*running]int, adminTaken bool) (err error) {
	err = errors.New("panic") // unless it comes to an end
	defer func() {
		if err == nil {
			return
		}
		_ = s.Kill(ctx, err)
		for _, t := range u.guards.tables {
			t.Keep()
		}
		u.predecessors.listen()
		u.listeners.resume()
		u.endpoint.resume()
	}()
	u.endpoint.yield(adminTaken)
	u.listeners.pause(ctx, taken)
	u.predecessors.pause()
	err = u.handOver(ctx, s)
	return err
}

// handOver passes on what was counted, what connections hold, and the turn.
func (u *upgrader) handOver(ctx context.Context, s *upgrade.Successor) error {
	for _, t := range u.guards.tables {
		t.Yield()
		if _, err := s.Tell(t.Name, t.All()); err != nil {
			return err
		}
	}
	for _, r := range append(u.predecessors.reports(), holdingsOf(u.guards, u.group)) {
		if err := r.send(s.Report); err != nil {
			return err
		}
	}
	return s.Yield(ctx, upgrade.Turn{Sessions: u.group.Numbered() + unnumbered})
}

// unnumbered leaves room for the ids of streams that clients of HTTP/2 begin
// while the turn is given.
const unnumbered = 1000

// sockets is everything that listens, and whose each is; nil: no listener's.
func (u *upgrader) sockets() (all []upgrade.Passing, owners []*running, err error) {
	all, owners, err = u.listeners.passing()
	if err != nil {
		return nil, nil, err
	}
	for _, more := range []func() ([]upgrade.Passing, error){u.endpoint.passing, u.health.passing, u.inherited.Systemd, u.predecessors.passing} {
		sockets, err := more()
		if err != nil {
			upgrade.CloseAll(all)
			return nil, nil, err
		}
		all = append(all, sockets...)
		owners = append(owners, make([]*running, len(sockets))...)
	}
	return all, owners, nil
}

// takeOver is the successor's side: it says that all is ready, waits for its
// turn, and takes what was counted. Without a predecessor there is only what
// nobody has asked for.
func (d *daemon) takeOver(ctx context.Context, c *core) error {
	in := d.options.Inherited
	if in == nil {
		return nil
	}
	before, err := in.Predecessors()
	if err != nil {
		return err
	}
	taken, level := in.Taken(), slog.LevelWarn
	if in.Predecessor != nil {
		level = slog.LevelInfo // the settings have changed since
	}
	if names := in.CloseRest(); len(names) > 0 {
		d.log.LogAttrs(ctx, level, "sockets were passed that no listener asks for: they are closed", slog.String("names", strings.Join(names, ", ")))
	}
	if in.Predecessor == nil {
		d.upgrader.listeners.own()
		d.upgrader.endpoint.ownsFile(true)
		return nil
	}
	d.predecessors.meet(append(before, in.Predecessor)...)
	turn, err := d.awaitTurn(ctx, c.guards, taken)
	if err != nil {
		return err
	}
	c.group.NumberFrom(turn.Sessions)
	d.upgrader.listeners.own()
	d.upgrader.endpoint.ownsFile(true)
	for outcome, n := range in.Predecessor.Hello.Counted {
		d.upgrader.metrics.Daemon.Upgrades.Of(outcome).Add(int(n))
	}
	d.predecessors.listen()
	return nil
}

// awaitTurn waits for the turn, or for the end of a predecessor that crashes or is
// killed meanwhile: the sockets are here too, and whoever has come to them waits.
func (d *daemon) awaitTurn(ctx context.Context, g *guards, taken []int) (upgrade.Turn, error) {
	from := d.options.Inherited.Predecessor
	heard := d.predecessors.heard(d.predecessors.latest())
	told := make(map[string]bool)
	heard.State = func(s upgrade.State) error {
		told[s.Table] = true
		return merge(g.tables, s)
	}
	turn, err := from.AwaitTurn(ctx, taken, heard)
	d.orphaned = errors.Is(err, upgrade.ErrGone)
	if err != nil && !d.orphaned {
		return turn, err
	}
	if d.orphaned {
		d.log.LogAttrs(ctx, slog.LevelWarn, "the predecessor has ended without giving the turn: this process serves in its place", slog.Int("pid", from.Hello.PID))
		turn.Sessions = from.Hello.Sessions + unknownSessions
	}
	for _, t := range g.tables {
		if d.orphaned && !told[t.Name] {
			t.Recover()
		} else {
			t.Keep()
		}
	}
	return turn, nil
}

// unknownSessions leaves room for the ids of those that a predecessor began from the
// start of its successor until it crashed.
const unknownSessions = 1 << 20

// merge adds a part of a table. One that is not known is of a version that
// counts more.
func merge(tables []authsvc.Table, s upgrade.State) error {
	for _, t := range tables {
		if t.Name == s.Table {
			return t.Add(s.Entries)
		}
	}
	return nil
}
