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
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/relay"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/conn/wire/socks5"
	"cleversocks/metrics"
)

// Handler takes connections through their steps: the door, the handshake (in
// which the client logs in and asks), the decision, the dial, the reply, and then
// a tunnel or one of the other commands. Each step is a type with what it may
// touch; the handler has their order, and the readers and the time that a
// handshake needs. It keeps nothing of a connection.
type Handler struct {
	log     *slog.Logger
	metrics *metrics.Registry
	panics  *task.Reporter
	access  *AccessLog
	policy  atomic.Pointer[Policy]
	guards  Guards
	// draining ends when connections should come to their end.
	draining context.Context //nolint:containedctx // an event, not a scope

	readers    sync.Pool // of *bufio.Reader
	deadlines  deadlines
	handshakes handshakes
	watch      clientWatch
	dialed     dialedEnds
	heads      *httpproxy.Budget // bounds the memory of large HTTP heads

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

// handshakeBuffer is what a handshake reads ahead at most, in bytes.
const handshakeBuffer = 4096

var _ [handshakeBuffer - socks5.MaxMessage]byte // it holds every SOCKS5 message

func newHandler(draining context.Context, o Options, tasks *task.Scope) *Handler {
	h := &Handler{
		log: o.Log, metrics: o.Metrics, panics: o.Panics, guards: o.Guards.orNone(o.Metrics), access: o.Access, draining: draining,
		readers: sync.Pool{New: func() any { return bufio.NewReaderSize(nil, handshakeBuffer) }},
		heads:   httpproxy.NewBudget(HeadBudget, o.Metrics.Limits.Of(metrics.LimitHTTPHeads).Inc),
		watch:   clientWatch{tasks: tasks},
		login:   login{log: o.Log},
		replies: replies{log: o.Log, metrics: &o.Metrics.Conn},
	}
	h.judge = judge{log: o.Log, current: &h.policy}
	h.door = doorkeeper{log: o.Log, metrics: &o.Metrics.Listener, current: &h.policy, guards: &h.guards, handshakes: &h.handshakes, login: &h.login}
	h.accounts = accounts{judge: &h.judge, guards: &h.guards, metrics: o.Metrics.Users}
	h.connector = connector{judge: &h.judge, watch: &h.watch, panics: o.Panics}
	h.commands = commands{judge: &h.judge, replies: &h.replies, panics: o.Panics, quotaExceeded: o.Metrics.Auth.QuotaExceeded}
	h.plain = forwarder{
		login: &h.login, judge: &h.judge, accounts: &h.accounts, connector: &h.connector, replies: &h.replies,
		watch: &h.watch, dialed: &h.dialed, access: o.Access, metrics: o.Metrics, panics: o.Panics, draining: draining, heads: h.heads,
	}
	h.streams = multiplexer{log: o.Log, metrics: o.Metrics, panics: o.Panics, draining: draining}
	return h
}

// establish is a connection up to its relay: it reads the handshake, decides,
// dials and answers. It reports whether there is a tunnel to relay, or an
// association to serve; if not, the connection is answered and closed.
func (h *Handler) establish(s *session) (ok bool) {
	in := h.readers.Get().(*bufio.Reader)
	hs := &handshake{session: s, in: in}
	defer func() {
		if p := recover(); p != nil {
			s.panicked(h.panics, "conn", p)
			ok = false
		}
		if hs.head != nil {
			hs.head.Release()
		}
		if !ok {
			s.closeRefused()
		}
		in.Reset(nil)
		h.readers.Put(in)
	}()
	// A cancelled session unblocks whatever read or write it is in.
	hs.release = context.AfterFunc(s.ctx, func() { s.socket.Close() })
	defer hs.release()

	s.policy = h.policy.Load()
	if err := s.socket.SetDeadline(s.started.Add(s.policy.Timeouts.Handshake)); err != nil {
		return s.fail("handshake", err)
	}
	h.deadlines.began(s, h.draining.Done())
	if err := h.door.pass(s); err != nil {
		if refused, ok := errors.AsType[*refusedBehind](err); ok {
			return h.door.refuseBehind(s, refused)
		}
		return h.replies.handshakeFailed(hs, err)
	}
	in.Reset(s.conn)
	if err := h.negotiate(hs); err != nil {
		return h.replies.handshakeFailed(hs, err)
	}
	h.deadlines.requested(s)
	h.handshakes.requested(s)
	if err := s.socket.SetDeadline(time.Time{}); err != nil {
		return s.fail("handshake", err)
	}
	h.metrics.Conn.Handshakes.Of(s.protocol.String(), "ok").Inc()
	switch {
	case hs.many:
		return h.streams.serve(hs)
	case hs.head != nil:
		tunnel, next := h.plain.serve(hs)
		if next != nil {
			return h.connectAfter(hs, next)
		}
		return tunnel
	}
	return h.serve(hs)
}

// serve carries a request out, as far as it takes the handshake.
func (h *Handler) serve(hs *handshake) bool {
	s := hs.session
	if log := s.logger(h.log, levelTrace); log != nil {
		log.Log(s.ctx, levelTrace, "request", "command", s.request.Command, "target", s.request.Dest)
	}
	if err := h.dialed.refuse(s); err != nil {
		return h.replies.requestFailed(hs, err)
	}
	if err := h.accounts.enter(s); err != nil {
		return h.replies.requestFailed(hs, err)
	}
	err := errCommand
	switch {
	case s.request.Command == wire.CommandConnect:
		if err = h.connector.connect(s, hs.in.Buffered() > 0); err == nil {
			h.dialed.add(s.server) // the request that comes back by it is later than the reply
			return h.replies.granted(hs) && hs.passAhead(nil)
		}
	case s.request.Command == wire.CommandUDPAssociate && s.policy.UDP != nil:
		if err = h.judge.command(s); err == nil {
			return true
		}
	case s.request.Command == wire.CommandBind && s.policy.Bind != nil:
		if err = h.judge.command(s); err == nil {
			return h.commands.bind(hs)
		}
	}
	return h.replies.requestFailed(hs, err)
}

// connectAfter serves the CONNECT that a client sent behind plain requests.
// What is recorded from here on is the tunnel.
func (h *Handler) connectAfter(hs *handshake, head *httpproxy.Head) bool {
	s := hs.session
	s.started, s.policy = time.Now(), h.policy.Load()
	defer context.AfterFunc(s.ctx, func() { s.socket.Close() })()
	codec := h.http()
	if err := codec.take(hs, head); err != nil {
		return h.replies.handshakeFailed(hs, errors.Join(err, codec.write(hs, codec.refusal(hs, err))))
	}
	if err := s.socket.SetDeadline(time.Time{}); err != nil {
		return s.fail("handshake", err)
	}
	return h.serve(hs)
}

// http is the codec of HTTP.
func (h *Handler) http() httpCodec { return httpCodec{login: &h.login, heads: h.heads} }

// negotiate tells the protocol and reads up to the request.
func (h *Handler) negotiate(hs *handshake) error {
	l := hs.policy.listener(hs.listener)
	p, err := protocolAt(l, func() (byte, error) {
		first, err := hs.in.Peek(1)
		if err != nil {
			return 0, err
		}
		hs.stage.CompareAndSwap(stageSilent, stageTalking)
		return first[0], nil
	})
	if err != nil {
		return err
	}
	hs.protocol, hs.codec = p.name, p.codec(h, l)
	h.metrics.Conn.Active.Of(wire.ProtocolUnknown.String()).Add(-1)
	h.metrics.Conn.Active.Of(hs.protocol.String()).Add(1)
	return hs.codec.negotiate(hs)
}

// relay has the bytes moved until the tunnel ends, both sides are closed, and
// end is called. It returns at once.
func (h *Handler) relay(s *session, end func(*session)) {
	options := s.policy.Relay
	options.Counters = &s.counters
	options.Meter = s.charge.meter()
	s.relaying.Store(true)
	h.access.opened(s)
	options.Panicked = func(p any) { s.panicked(h.panics, "relay", p) }
	t := relay.Start(bare(s.conn), s.server, options, func(r relay.Result) {
		s.cause, s.err = r.Cause, r.Err
		if s.cause == cause.Quota {
			h.metrics.Auth.QuotaExceeded.Inc()
		}
		end(s)
	})
	s.scope.handTo(t)
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
