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
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/http2front"
	"cleversocks/conn/relay"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/httpproxy"
	"cleversocks/conn/wire/socks5"
	"cleversocks/metrics"
)

// Handler serves connections, one phase after the other. It keeps nothing of
// a connection between them.
type Handler struct {
	log     *slog.Logger
	metrics *metrics.Registry
	panics  *task.Reporter
	guards  Guards
	access  *AccessLog
	policy  atomic.Pointer[Policy]
	readers sync.Pool // of *bufio.Reader
	watch   clientWatch
	haste   haste
	giveWay giveWay
	dialed  dialedEnds
	// forwards are the connections of plain requests, which no session holds.
	forwards forwardConns
	// draining ends when connections should come to their end.
	draining context.Context //nolint:containedctx // an event, not a scope
	// admitStream serves a stream of an HTTP/2 connection as a session.
	admitStream func(of *session, c http2front.Stream) (refused string)
	// heads bounds the memory of large HTTP heads.
	heads *httpproxy.Budget
}

// HeadBudget is how many bytes of large HTTP heads there are at most at a time,
// over all connections.
const HeadBudget = 16 << 20

// handshakeBuffer is what a handshake reads ahead at most, in bytes.
const handshakeBuffer = 4096

var _ [handshakeBuffer - socks5.MaxMessage]byte // it holds every SOCKS5 message

func newHandler(draining context.Context, o Options, tasks *task.Scope) *Handler {
	return &Handler{
		log: o.Log, metrics: o.Metrics, panics: o.Panics, guards: o.Guards.orNone(o.Metrics), access: o.Access,
		draining: draining, heads: httpproxy.NewBudget(HeadBudget, o.Metrics.Limits.Of(metrics.LimitHTTPHeads).Inc), watch: clientWatch{tasks: tasks},
		readers: sync.Pool{New: func() any { return bufio.NewReaderSize(nil, handshakeBuffer) }},
	}
}

// establish is a connection up to its relay: it reads the handshake, decides,
// dials and answers. It reports whether there is a tunnel to relay, or an
// association to serve; if not, the connection is answered and closed.
func (h *Handler) establish(s *session) (ok bool) {
	in := h.readers.Get().(*bufio.Reader)
	hs := &handshake{session: s, in: in}
	defer func() {
		if p := recover(); p != nil {
			h.panicked(s, "conn", p)
			ok = false
		}
		if hs.head != nil {
			hs.head.Release()
		}
		if !ok {
			h.closeRefused(s)
		}
		in.Reset(nil)
		h.readers.Put(in)
	}()
	// A cancelled session unblocks whatever read or write it is in.
	hs.release = context.AfterFunc(s.ctx, func() { s.socket.Close() })
	defer hs.release()

	s.policy = h.policy.Load()
	if err := s.socket.SetDeadline(s.started.Add(s.policy.Timeouts.Handshake)); err != nil {
		return h.fail(s, "handshake", err)
	}
	h.haste.began(s, h.draining.Done())
	if err := h.pass(s); err != nil {
		if refused, ok := errors.AsType[*refusedBehind](err); ok {
			return h.refuseBehind(s, refused)
		}
		return h.handshakeFailed(hs, err)
	}
	in.Reset(s.conn)
	if err := h.negotiate(hs); err != nil {
		return h.handshakeFailed(hs, err)
	}
	h.haste.requested(s)
	h.giveWay.requested(s)
	if err := s.socket.SetDeadline(time.Time{}); err != nil {
		return h.fail(s, "handshake", err)
	}
	h.metrics.Conn.Handshakes.Of(s.protocol.String(), "ok").Inc()
	switch {
	case hs.many:
		return h.multiplex(hs)
	case hs.head != nil:
		return h.forward(hs)
	}
	return h.serve(hs)
}

// serve carries a request out, as far as it takes the handshake.
func (h *Handler) serve(hs *handshake) bool {
	s := hs.session
	if log := s.logger(h.log, levelTrace); log != nil {
		log.Log(s.ctx, levelTrace, "request", "command", s.request.Command, "target", s.request.Dest)
	}
	if err := h.refuseLoop(s); err != nil {
		return h.requestFailed(hs, err)
	}
	if err := h.enterUser(s); err != nil {
		return h.requestFailed(hs, err)
	}
	err := errCommand
	switch {
	case s.request.Command == wire.CommandConnect:
		if err = h.connect(hs); err == nil {
			return h.answer(hs)
		}
	case s.request.Command == wire.CommandUDPAssociate && s.policy.UDP != nil:
		if err = h.judgeCommand(s); err == nil {
			return true
		}
	case s.request.Command == wire.CommandBind && s.policy.Bind != nil:
		if err = h.judgeCommand(s); err == nil {
			return h.bind(hs)
		}
	}
	return h.requestFailed(hs, err)
}

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

// connect decides, then dials, as long as the client stays.
func (h *Handler) connect(hs *handshake) error {
	s := hs.session
	if err := h.judgeName(s); err != nil {
		return err
	}
	defer h.watch.client(s, hs.in.Buffered() > 0)()
	err := h.reach(s.ctx, s)
	if cause := context.Cause(s.ctx); err != nil && errors.Is(cause, errClientGone) {
		return cause
	}
	return err
}

// answer tells the client that it is connected and passes on what it sent
// ahead. The reply and the few bytes fit into two empty socket buffers: this
// cannot block, so it needs no deadline.
func (h *Handler) answer(hs *handshake) bool {
	s := hs.session
	h.metrics.Conn.Requests.Of(s.request.Command.String(), wire.ReplySucceeded.String()).Inc()
	h.dialed.add(s.server) // the request that comes back by it is later than the reply
	if err := hs.codec.reply(hs, wire.ReplySucceeded, s.boundAddress()); err != nil {
		return h.clientLost(s, err)
	}
	s.replied = true
	return h.passAhead(hs, nil)
}

// passAhead gives the server what the client sent before it was connected:
// what was read with the handshake, and then more.
func (h *Handler) passAhead(hs *handshake, more []byte) bool {
	read, _ := hs.in.Peek(hs.in.Buffered())
	for _, ahead := range [][]byte{read, more} {
		if len(ahead) == 0 {
			continue
		}
		if err := hs.charge.pay(hs.ctx, relay.In, len(ahead)); err != nil {
			return h.notPaid(hs.session, err)
		}
		if _, err := hs.server.Write(ahead); err != nil {
			return h.serverLost(hs.session, err)
		}
		hs.counters.In.Add(int64(len(ahead)))
	}
	return true
}

// relay has the bytes moved until the tunnel ends, both sides are closed, and
// end is called. It returns at once.
func (h *Handler) relay(s *session, end func(*session)) {
	options := s.policy.Relay
	options.Counters = &s.counters
	options.Meter = s.charge.meter()
	s.relaying.Store(true)
	h.access.opened(s)
	options.Panicked = func(p any) { h.panicked(s, "relay", p) }
	relay.Start(s.ctx, bare(s.conn), s.server, options, func(r relay.Result) {
		s.cause, s.err = r.Cause, r.Err
		if s.cause == cause.Quota {
			h.metrics.Auth.QuotaExceeded.Inc()
		}
		end(s)
	})
}

// handshakeFailed ends a connection whose request was not read.
func (h *Handler) handshakeFailed(hs *handshake, err error) bool {
	s := hs.session
	o := s.outcome(inHandshake, err)
	s.err, s.cause = err, o.cause
	h.metrics.Conn.Handshakes.Of(s.protocol.String(), o.handshake).Inc()
	if owesReply(err) {
		h.refuse(hs, o)
	}
	if log := s.logger(h.log, slog.LevelDebug); log != nil {
		log.Log(s.ctx, slog.LevelDebug, "handshake failed", "protocol", s.protocol.String(), "err", err)
	}
	return false
}

// owesReply reports an error about a request that was read, and whose codec
// has not answered it.
func owesReply(err error) bool {
	return kind[*socks5.RequestError](err) || errors.Is(err, errUnanswered)
}

// requestFailed answers a request that cannot be served.
func (h *Handler) requestFailed(hs *handshake, err error) bool {
	s := hs.session
	o := s.outcome(inRequest, err)
	s.err, s.cause = err, o.cause
	h.refused(s, o)
	h.refuse(hs, o)
	if log := s.logger(h.log, slog.LevelDebug); log != nil {
		log.Log(s.ctx, slog.LevelDebug, "request failed", "target", s.request.Dest.String(), "reply", s.code.String(), "err", err)
	}
	return false
}

// refused counts a request that policy refuses, whatever its protocol.
func (h *Handler) refused(s *session, o outcome) {
	if o.refusal == "" {
		return
	}
	if o.rule != "" {
		s.rule = o.rule
	}
	h.metrics.Conn.Refused.Of(o.refusal).Inc()
}

// refuse sends a failure reply, as far as the client still listens. The
// request counts by what was decided, the record tells what was sent.
func (h *Handler) refuse(hs *handshake, o outcome) {
	hs.code, hs.failure = o.reply, o
	h.metrics.Conn.Requests.Of(hs.request.Command.String(), o.reply.String()).Inc()
	if errors.Is(hs.err, errClientGone) {
		return
	}
	err := hs.codec.reply(hs, o.reply, netip.AddrPort{})
	hs.replied = err == nil
	if err != nil {
		if log := hs.logger(h.log, slog.LevelDebug); log != nil {
			log.Log(hs.ctx, slog.LevelDebug, "reply not sent", "err", err)
		}
	}
}

// fail ends a connection that broke under us.
func (h *Handler) fail(s *session, during string, err error) bool {
	s.err = fmt.Errorf("%s: %w", during, err)
	s.cause = s.outcome(inTunnel, err).cause
	return false
}

// panicked notes a defect in one connection's path; the others go on.
func (h *Handler) panicked(s *session, where string, p any) {
	s.cause = cause.Error
	s.err = h.panics.Panicked(s.ctx, where, p, slog.String("id", s.ID()), slog.String("client", s.caller()))
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
