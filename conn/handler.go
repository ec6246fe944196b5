// Package conn is one connection's life: handshake, decision, dial, relay,
// and the record that says how it went. Group owns all of them at once.
//
//	group := conn.NewGroup(conn.Options{...})
//	group.SetPolicy(policy)
//	refused := group.Admit(tcpConn, "127.0.0.1:1080")
package conn

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"

	"cleversocks/conn/cause"
	"cleversocks/conn/handshake"
	"cleversocks/conn/relay"
	"cleversocks/conn/task"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/metrics"
)

// Handler takes connections through their steps: the door, the handshake (in
// which the client logs in and asks), the decision, the dial, the reply, and then
// a tunnel or one of the other commands. Each step is a type with what it may
// touch; the machine of package handshake has their order, and a driver takes them.
// It keeps nothing of a connection.
type Handler struct {
	log     *slog.Logger
	metrics *metrics.Registry
	panics  *task.Reporter
	access  *AccessLog
	policy  atomic.Pointer[Policy]
	guards  Guards
	// draining ends when connections should come to their end.
	draining context.Context //nolint:containedctx // an event, not a scope
	// hurrying ends when those that do nothing are to end at once, too.
	hurrying context.Context //nolint:containedctx // likewise

	openings     sync.Pool // of *opening
	drivers      sync.Pool // of *driver
	readers      sync.Pool // of *bufio.Reader
	deadlines    deadlines
	handshakes   handshakes
	watch        clientWatch // during dials
	logins       clientWatch // while log-ins wait for their turn
	dialed       dialedEnds
	divertedEnds divertedEnds
	heads        *httpproxy.Budget // bounds the memory of large HTTP heads

	door      doorkeeper
	login     login
	judge     judge
	accounts  accounts
	connector connector
	replies   replies
	commands  commands
	plain     forwarder
	streams   multiplexer
}

// HeadBudget is how many bytes of large HTTP heads there are at most at a time,
// over all connections.
const HeadBudget = 16 << 20

func newHandler(draining, hurrying context.Context, o Options, tasks *task.Scope) *Handler {
	h := &Handler{
		log: o.Log, metrics: o.Metrics, panics: o.Panics, guards: o.Guards.orNone(o.Metrics), access: o.Access, draining: draining, hurrying: hurrying,
		readers: sync.Pool{New: func() any { return bufio.NewReaderSize(nil, requestBuffer) }},
		heads:   httpproxy.NewBudget(HeadBudget, o.Metrics.Limits.Of(metrics.LimitHTTPHeads).Inc),
		watch:   clientWatch{tasks: tasks, after: watchAfter, gone: errClientGone},
		logins:  clientWatch{tasks: tasks, after: lingerTime, gone: errLeftLogin},
		login:   login{log: o.Log},
		replies: replies{log: o.Log, metrics: &o.Metrics.Conn},
	}
	h.judge = judge{log: o.Log, access: o.Access, current: &h.policy}
	h.door = doorkeeper{log: o.Log, metrics: &o.Metrics.Listener, current: &h.policy, guards: &h.guards, handshakes: &h.handshakes, login: &h.login, access: o.Access}
	h.accounts = accounts{judge: &h.judge, guards: &h.guards, metrics: o.Metrics.Users}
	h.connector = connector{judge: &h.judge, watch: &h.watch, panics: o.Panics}
	h.commands = commands{access: o.Access, judge: &h.judge, replies: &h.replies, panics: o.Panics, quotaExceeded: o.Metrics.Auth.QuotaExceeded}
	h.plain = forwarder{
		login: &h.login, judge: &h.judge, accounts: &h.accounts, connector: &h.connector, replies: &h.replies,
		watch: &h.watch, dialed: &h.dialed, access: o.Access, metrics: o.Metrics, panics: o.Panics, draining: draining, hurrying: hurrying, heads: h.heads,
	}
	h.streams = multiplexer{log: o.Log, metrics: o.Metrics, panics: o.Panics, draining: draining}
	return h
}

// establish is a connection up to its relay: through its door, and then as the
// machine of its handshake says. It reports whether there is a tunnel to relay, or an
// association to serve; if not, the connection is answered and closed.
func (h *Handler) establish(s *session) (ok bool) {
	return h.drive(h.newOpening(s), func(d *driver) bool { return h.enter(d, s) })
}

// drive runs a session's driver in its task, as far as steps takes it.
func (h *Handler) drive(o *opening, steps func(*driver) bool) (ok bool) {
	d, s := h.newDriver(o), o.session
	defer func() {
		if p := recover(); p != nil {
			s.panicked(h.panics, "conn", p)
			d.machine.Reset() // gives back what it took; whatever else the driver holds is not used again
			ok = false
		} else {
			d.put()
		}
		if !ok {
			s.closeRefused()
		}
	}()
	// A cancelled session unblocks whatever read or write it is in.
	socket := s.socket // the session lets go of it when its tunnel begins
	release := context.AfterFunc(s.ctx, func() { socket.Close() })
	defer release()
	d.release = release
	return steps(d)
}

// enter is a connection from its door on.
func (h *Handler) enter(d *driver, s *session) bool {
	s.policy = h.policy.Load()
	if err := s.socket.SetDeadline(s.started.Add(s.policy.Timeouts.Handshake)); err != nil {
		return s.fail("handshake", err)
	}
	h.deadlines.began(s, h.draining.Done())
	if err := h.door.pass(s); err != nil {
		if refused, ok := errors.AsType[*refusedBehind](err); ok {
			return h.door.refuseBehind(s, refused)
		}
		h.replies.handshakeFailed(s, err, false)
		return false
	}
	l := s.policy.listener(s.listener)
	turned, err := d.turned(l)
	if err != nil {
		h.replies.handshakeFailed(s, err, false)
		return false
	}
	if turned.IsValid() {
		if err := d.sniffAhead(l, turned); err != nil {
			h.replies.handshakeFailed(s, err, false)
			return false
		}
	}
	return d.run(d.begin(handshake.Options{Spoken: l.Protocols, Transparent: turned, Inner: s.inner, Heads: h.heads}))
}

// relay has the bytes moved until the tunnel ends, both sides are closed, and
// end is called. It returns at once.
func (h *Handler) relay(s *session, end func(*session)) {
	options, done := h.tunnel(s, end)
	s.handTo(relay.Start(bare(s.conn), s.server, options, done))
}

// tunnel is how a session is relayed, and what comes after that.
func (h *Handler) tunnel(s *session, end func(*session)) (options relay.Options, done func(relay.Result)) {
	options = s.policy.Relay
	options.Counters = &s.counters
	options.Meter = s.charge.meter()
	s.relaying.Store(true)
	h.access.opened(s)
	options.Panicked = func(p any) { s.panicked(h.panics, "relay", p) }
	return options, func(r relay.Result) {
		s.cause, s.err = r.Cause, r.Err
		if s.cause == cause.Quota {
			h.metrics.Auth.QuotaExceeded.Inc()
		}
		s.scope.release() // there is nothing left to end
		end(s)
	}
}
