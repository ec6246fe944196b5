package conn

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/thejerf/suture/v4"

	"cleversocks/conn/adopt"
	"cleversocks/conn/http2front"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/relay"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// Options is what a Group is made of.
type Options struct {
	Log     *slog.Logger
	Metrics *metrics.Registry
	Access  *AccessLog
	// DrainTimeout says how long Serve waits for tunnels to end by
	// themselves once it is told to stop. Read when that happens.
	DrainTimeout func() time.Duration
	// Elsewhere is how many connections count towards the limit beside those
	// here, and must not wait; nil: none.
	Elsewhere func() int
	Guards    Guards
	// Panics hears of the panics that connections contain. Nil: Log and Metrics
	// do.
	Panics *task.Reporter
}

// Group owns every connection: it admits them, runs their tasks, and ends
// them. As a service it only waits to be told to stop, and then drains.
type Group struct {
	handler *Handler
	access  *AccessLog
	log     *slog.Logger
	metrics *metrics.Registry
	drain   func() time.Duration
	others  func() int // Options.Elsewhere

	onReactors
	instead func(c net.Conn, listener string) (refused string, done bool) // of Admit; tests have what they admit served on reactors
	base    context.Context                                               //nolint:containedctx // the scope of all connections, which outlives any one call
	tasks   *task.Scope                                                   // runs their goroutines
	endAll  context.CancelCauseFunc
	ended   func(*session) // is end, made once for all tunnels
	limit   atomic.Int64
	nextID  atomic.Uint64
	before  atomic.Uint64 // ids that predecessors have given
	changed chan struct{} // has room for one: the group became empty, or is so no longer
	left    chan struct{} // has room for one: a connection has ended

	mu       sync.Mutex
	sessions map[*session]struct{}
	killings []killing // the last ones, in order
	draining bool
	ending   func()        // tells connections that the drain has begun
	hurry    func()        // tells those that do nothing to end
	empty    chan struct{} // is closed when the drain has begun and no connection is left
}

// NewGroup makes a group that admits nobody until SetPolicy and SetLimit.
func NewGroup(ctx context.Context, o Options) *Group {
	base, endAll := context.WithCancelCause(context.WithoutCancel(ctx))
	draining, ending := context.WithCancel(base)
	hurrying, hurry := context.WithCancel(base)
	if o.Panics == nil {
		o.Panics = &task.Reporter{Log: o.Log, Count: func(where string) { o.Metrics.Conn.Panics.Of(where).Inc() }}
	}
	if o.Elsewhere == nil {
		o.Elsewhere = func() int { return 0 }
	}
	adopt.Reserve()
	// Its context is nobody's: a connection's end must not be that of others.
	tasks, _ := task.New(context.WithoutCancel(ctx), o.Panics, "conn")
	g := &Group{
		handler:  newHandler(draining, hurrying, o, tasks),
		tasks:    tasks,
		ending:   ending,
		hurry:    hurry,
		access:   o.Access,
		log:      o.Log,
		metrics:  o.Metrics,
		drain:    o.DrainTimeout,
		others:   o.Elsewhere,
		base:     base,
		endAll:   endAll,
		changed:  make(chan struct{}, 1),
		left:     make(chan struct{}, 1),
		sessions: make(map[*session]struct{}),
		empty:    make(chan struct{}),
	}
	g.handler.streams.admit = g.admitStream
	g.handler.commands.waits = g.waits
	g.ended = g.end
	return g
}

func (g *Group) String() string { return "connections" }

// SetPolicy is what connections accepted from now on are served by.
func (g *Group) SetPolicy(p *Policy) { g.handler.policy.Store(p) }

// Policy is the current snapshot.
func (g *Group) Policy() *Policy { return g.handler.policy.Load() }

// SetLimit bounds how many connections there are at once. A lower limit ends
// none of those that are.
func (g *Group) SetLimit(n int) { g.limit.Store(int64(n)) }

// Active is how many connections there are.
func (g *Group) Active() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.sessions)
}

// Changed gets a value when the group becomes empty, and when it has a connection
// again. Several changes may come as one value. It has one reader.
func (g *Group) Changed() <-chan struct{} { return g.changed }

// Left gets a value when a connection has ended. Several ends may come as one
// value. It has one reader.
func (g *Group) Left() <-chan struct{} { return g.left }

// Admit takes the connection and serves it in a task of its own, or refuses
// it: then the reason is one of metrics.Refused*, and the connection is still
// the caller's. It does not block.
func (g *Group) Admit(c net.Conn, listener string) (refused string) {
	if g.instead != nil {
		if refused, done := g.instead(c, listener); done {
			return refused
		}
	}
	s := &session{
		id:       g.nextID.Add(1),
		socket:   c,
		conn:     c,
		listener: listener,
		client:   netaddr.Of(c.RemoteAddr()),
		started:  time.Now(),
	}
	if reason := g.letIn(s); reason != "" {
		return reason
	}
	g.begin(s, nil)
	return ""
}

// TurnedAway notes a connection that its listener refused by itself, for one of
// metrics.Refused*. It does not block.
func (g *Group) TurnedAway(c net.Conn, listener, reason string) {
	g.access.refused(&session{client: netaddr.Of(c.RemoteAddr()), listener: listener}, reason)
}

// letIn takes a session into the group, as far as limits and lists allow.
func (g *Group) letIn(s *session) (refused string) {
	refused = g.handler.door.atAccept(s)
	if refused == "" {
		if refused = g.add(s); refused != "" {
			g.handler.guards.leave(s)
		}
	}
	if refused != "" {
		g.access.refused(s, refused)
	}
	return refused
}

// begin starts an admitted session's task, once before has run.
func (g *Group) begin(s *session, before func()) {
	s.ctx = s.scope.begin(g.base)
	if before != nil {
		before()
	}
	g.began(s)
	g.tasks.Go(func() error {
		g.run(s, func() bool { return g.handler.establish(s) })
		return nil
	})
}

// beginWith starts an admitted session that a reactor serves.
func (g *Group) beginWith(r ringer, s *session) {
	s.ctx = s.scope.beginWith(r)
	g.began(s)
}

func (g *Group) began(s *session) {
	if !s.inner { // a stream has its request
		g.handler.handshakes.began(s)
	}
	g.metrics.Conn.Active.Of(s.protocol.String()).Add(1)
}

// admitStream serves a stream of an HTTP/2 connection as Admit serves a
// connection: it counts for its source and in all, and has a record.
func (g *Group) admitStream(of *session, c http2front.Stream) (refused string) {
	s := &session{
		id: g.nextID.Add(1), socket: c, conn: c, inner: true, listener: of.listener, client: of.client, entry: new(entry), started: time.Now(),
	}
	*s.entry = of.atDoor()
	s.entry.notes = append(slices.Clone(s.entry.notes), "http2")
	if reason := g.handler.guards.enter(s); reason != "" {
		g.access.refused(s, reason)
		return reason
	}
	if reason := g.add(s); reason != "" {
		g.handler.guards.leave(s)
		g.access.refused(s, reason)
		return reason
	}
	g.begin(s, func() {
		c.OnReset(func() {
			if !s.relaying.Load() { // a relay sees by itself, once it has delivered what came
				s.cancel(errClientGone)
			}
		})
	})
	return ""
}

// run is a connection's task up to its relay. It does not stay longer: its
// stack has grown, and an idle tunnel would keep it. Whatever panics on the
// way, the connection ends, and what it held is given back.
func (g *Group) run(s *session, establish func() bool) {
	relayed := false
	defer func() {
		if !relayed {
			g.end(s)
		}
	}()
	defer func() {
		if p := recover(); p != nil {
			s.panicked(g.handler.panics, "conn", p)
			s.abandon()
			relayed = false
		}
	}()
	growStack(0)
	if !establish() {
		return
	}
	g.revocable(s)
	if s.request.Command == wire.CommandUDPAssociate {
		g.handler.commands.associate(s)
		return
	}
	relayed = true
	g.handler.relay(s, g.ended)
}

// end writes the record and lets the connection go, once: whoever calls again
// after a panic finds nothing left to do. It contains panics itself, since the
// relay calls it on goroutines of its own; each thing that was taken is given
// back whatever the others do.
func (g *Group) end(s *session) {
	if s.ended.Swap(true) {
		return
	}
	defer g.contained(s)
	defer g.remove(s)
	defer g.handler.guards.leave(s)
	defer s.charge.release(s.client.Addr())
	defer s.cancel(nil)
	defer s.leave()
	defer g.handler.handshakes.ended(s)
	defer g.handler.dialed.removeServer(s)
	g.metrics.Conn.Active.Of(s.protocol.String()).Add(-1)
	if s.cause != "" && (g.access.watcher != nil || g.access.keeps(s.cause)) {
		g.access.Log(s.record())
	}
}

// contained is to be deferred where a session ends.
func (g *Group) contained(s *session) {
	if p := recover(); p != nil {
		s.panicked(g.handler.panics, "record", p)
	}
}

// add takes the session into the group, where a handshake gives way if all
// places are taken.
func (g *Group) add(s *session) (refused string) {
	refused = g.addUpTo(s, 0)
	if refused == metrics.RefusedLimit && g.makeRoom() {
		refused = g.addUpTo(s, leavingMost)
	}
	return refused
}

// addUpTo lets extra connections in beyond the limit.
func (g *Group) addUpTo(s *session, extra int64) (refused string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.draining:
		return metrics.RefusedDraining
	case int64(len(g.sessions)+g.others()) >= g.limit.Load()+extra:
		return metrics.RefusedLimit
	}
	g.sessions[s] = struct{}{}
	if len(g.sessions) == 1 {
		notify(g.changed)
	}
	return ""
}

func (g *Group) remove(s *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.sessions, s)
	notify(g.left)
	if len(g.sessions) > 0 {
		return
	}
	notify(g.changed)
	if g.draining {
		close(g.empty)
	}
}

func notify(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Serve waits for ctx to end, then for the connections to end by themselves
// until the drain timeout, then ends what is left and waits for that.
func (g *Group) Serve(ctx context.Context) error {
	<-ctx.Done()
	left := g.startDraining()
	g.hurry()
	if left > 0 {
		timeout := g.drain()
		g.log.LogAttrs(ctx, slog.LevelInfo, "draining", slog.Int("connections", left), slog.Duration("timeout", timeout))
		g.awaitEmpty(timeout)
	}
	g.endAll(relay.ErrDrained)
	g.endTunnels(relay.ErrDrained)
	<-g.empty
	_ = g.tasks.Wait() // each has told its own panic
	return errors.Join(suture.ErrDoNotRestart, ctx.Err())
}

// Retire is a drain without haste, for a process whose successor serves: nobody
// is admitted any more, and handshakes that are under way have all of their
// time. It returns when the last connection has ended, or ctx has.
func (g *Group) Retire(ctx context.Context) {
	g.handler.deadlines.patient.Store(true)
	g.startDraining()
	select {
	case <-g.empty:
	case <-ctx.Done():
	}
}

func (g *Group) startDraining() (left int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.draining {
		g.draining = true
		g.ending()
		for s := range g.sessions {
			g.handler.deadlines.cutShort(s)
		}
		if len(g.sessions) == 0 {
			close(g.empty)
		}
	}
	return len(g.sessions)
}

func (g *Group) awaitEmpty(timeout time.Duration) {
	deadline := time.NewTimer(timeout)
	defer deadline.Stop()
	select {
	case <-g.empty:
	case <-deadline.C:
		g.log.LogAttrs(g.base, slog.LevelWarn, "drain timeout: closing what is left", slog.Int("connections", g.Active()))
	}
}

// handshakeStack is a frame that makes room on the stack for a handshake, in
// bytes.
const handshakeStack = 5 << 10

// growStack has the runtime make a new goroutine's stack large enough for a
// handshake while there is next to nothing to move to the larger one. In small
// steps on the way down it would cost a connection several microseconds.
//
//go:noinline
func growStack(i int) byte {
	var room [handshakeStack]byte
	return room[i]
}
