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
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/conn/dial"
	"cleversocks/conn/relay"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks5"
	"cleversocks/metrics"
)

// Handler serves connections, one phase after the other. It keeps nothing of
// a connection between them.
type Handler struct {
	log     *slog.Logger
	metrics *metrics.Registry
	policy  atomic.Pointer[Policy]
	readers sync.Pool // of *bufio.Reader
	watch   clientWatch
}

// handshakeBuffer is what a handshake reads ahead at most, in bytes.
const handshakeBuffer = 4096

var _ [handshakeBuffer - socks5.MinBuffer]byte // it holds every SOCKS5 message

func newHandler(log *slog.Logger, m *metrics.Registry) *Handler {
	return &Handler{log: log, metrics: m, readers: sync.Pool{
		New: func() any { return bufio.NewReaderSize(nil, handshakeBuffer) },
	}}
}

// establish is a connection up to its relay: it reads the handshake, decides,
// dials and answers. It reports whether there is a tunnel to relay; if not,
// the connection is answered and closed.
func (h *Handler) establish(s *session) (ok bool) {
	in := h.readers.Get().(*bufio.Reader)
	in.Reset(s.conn)
	hs := &handshake{session: s, in: in}
	defer func() {
		if p := recover(); p != nil {
			h.panicked(s, "conn", p)
			ok = false
		}
		if !ok {
			h.closeRefused(s)
		}
		in.Reset(nil)
		h.readers.Put(in)
	}()
	// A cancelled session unblocks whatever read or write it is in.
	defer context.AfterFunc(s.ctx, func() { s.conn.Close() })()

	s.policy = h.policy.Load()
	if err := s.conn.SetDeadline(s.started.Add(s.policy.Timeouts.Handshake)); err != nil {
		return h.fail(s, "handshake", err)
	}
	if err := h.negotiate(hs); err != nil {
		return h.handshakeFailed(hs, err)
	}
	if err := s.conn.SetDeadline(time.Time{}); err != nil {
		return h.fail(s, "handshake", err)
	}
	h.metrics.Conn.Handshakes.Of(s.protocol.String(), "ok").Inc()
	if err := h.connect(hs); err != nil {
		return h.requestFailed(hs, err)
	}
	return h.answer(hs)
}

// negotiate tells the protocol by its first byte and reads up to the request.
func (h *Handler) negotiate(hs *handshake) error {
	first, err := hs.in.Peek(1)
	if err != nil {
		return err
	}
	switch first[0] {
	case socks5.Version:
		hs.protocol = wire.SOCKS5
		hs.codec = socks5Codec{h}
	default:
		return fmt.Errorf("%w: first byte %#02x", errProtocol, first[0])
	}
	h.metrics.Conn.Active.Of(wire.ProtocolUnknown.String()).Add(-1)
	h.metrics.Conn.Active.Of(hs.protocol.String()).Add(1)
	return hs.codec.negotiate(hs)
}

// errProtocol is a first byte that no protocol begins with.
var errProtocol = errors.New("unknown protocol")

// connect carries the request out: it decides, then dials.
func (h *Handler) connect(hs *handshake) error {
	s := hs.session
	if log := s.logger(h.log, levelTrace); log != nil {
		log.Log(s.ctx, levelTrace, "request", "command", s.request.Command, "target", s.request.Dest)
	}
	if s.request.Command != wire.CommandConnect {
		return errCommand
	}
	if err := s.judgeName(s.ctx); err != nil {
		return err
	}
	defer h.watch.client(s)()
	server, err := s.policy.Dialer.Dial(s.ctx, dial.Request{Dest: s.request.Dest, Judge: s.judge})
	if err != nil {
		if cause := context.Cause(s.ctx); errors.Is(cause, errClientGone) {
			return cause
		}
		return err
	}
	s.server = server
	s.hostIP = addrPort(server.RemoteAddr())
	s.local = addrPort(server.LocalAddr())
	return nil
}

// answer tells the client that it is connected and passes on what it sent
// ahead. The reply and the few bytes fit into two empty socket buffers: this
// cannot block, so it needs no deadline.
func (h *Handler) answer(hs *handshake) bool {
	s := hs.session
	s.replied = true
	h.metrics.Conn.Requests.Of(s.request.Command.String(), wire.ReplySucceeded.String()).Inc()
	if err := hs.codec.reply(hs, wire.ReplySucceeded, s.local); err != nil {
		return h.fail(s, "reply", err)
	}
	if n := hs.in.Buffered(); n > 0 {
		ahead, _ := hs.in.Peek(n)
		if _, err := s.server.Write(ahead); err != nil {
			return h.fail(s, "first bytes", err)
		}
		s.counters.In.Add(int64(n))
	}
	return true
}

// relay has the bytes moved until the tunnel ends, both sides are closed, and
// end is called. It returns when the tunnel has ended or is no longer young.
func (h *Handler) relay(s *session, end func(*session)) {
	options := s.policy.Relay
	options.Counters = &s.counters
	options.Panicked = func(p any) { h.panicked(s, "relay", p) }
	relay.Start(s.ctx, s.conn, s.server, options, func(r relay.Result) {
		s.cause, s.err = r.Cause, r.Err
		end(s)
	})
}

// handshakeFailed ends a connection whose request was not read.
func (h *Handler) handshakeFailed(hs *handshake, err error) bool {
	s := hs.session
	outcome := "malformed"
	s.err, s.cause = err, metrics.CauseHandshakeFailed
	switch {
	case s.ctx.Err() != nil:
		outcome, s.cause = "closed", endCause(s.ctx)
	case errors.Is(err, os.ErrDeadlineExceeded):
		outcome, s.cause = "timeout", metrics.CauseHandshakeTimeout
	case errors.Is(err, io.EOF) && s.protocol == wire.ProtocolUnknown:
		// A load balancer's probe: nothing was asked, nothing is recorded.
		outcome, s.cause = "closed", ""
		if log := s.logger(h.log, slog.LevelDebug); log != nil {
			log.Log(s.ctx, slog.LevelDebug, "closed without a byte")
		}
	case errors.Is(err, errNoMethod), errors.Is(err, errCredentials):
		outcome, s.cause = "refused", metrics.CauseDenied
	case errors.Is(err, socks5.ErrMalformed), errors.Is(err, errProtocol):
	default:
		outcome = "closed"
	}
	h.metrics.Conn.Handshakes.Of(s.protocol.String(), outcome).Inc()
	if _, owed := errors.AsType[*socks5.RequestError](err); owed {
		h.refuse(hs, replyCode(err))
	}
	if log := s.logger(h.log, slog.LevelDebug); log != nil {
		log.Log(s.ctx, slog.LevelDebug, "handshake failed", "protocol", s.protocol.String(), "err", err)
	}
	return false
}

// requestFailed answers a request that cannot be served.
func (h *Handler) requestFailed(hs *handshake, err error) bool {
	s := hs.session
	s.err, s.cause = err, metrics.CauseDialFailed
	switch denied, isDenied := errors.AsType[*deniedError](err); {
	case isDenied:
		s.cause, s.rule = metrics.CauseDenied, denied.rule
	case errors.Is(err, errCommand):
		s.cause = metrics.CauseHandshakeFailed
	case errors.Is(err, errClientGone):
		s.cause = metrics.CauseClientClosed
	case s.ctx.Err() != nil:
		s.cause = endCause(s.ctx)
	}
	h.refuse(hs, replyCode(err))
	if log := s.logger(h.log, slog.LevelDebug); log != nil {
		log.Log(s.ctx, slog.LevelDebug, "request failed", "target", s.request.Dest.String(), "reply", s.code.String(), "err", err)
	}
	return false
}

// refuse sends a failure reply, as far as the client still listens.
func (h *Handler) refuse(hs *handshake, code wire.ReplyCode) {
	hs.code, hs.replied = code, true
	h.metrics.Conn.Requests.Of(hs.request.Command.String(), code.String()).Inc()
	if err := hs.codec.reply(hs, code, netip.AddrPort{}); err != nil {
		if log := hs.logger(h.log, slog.LevelDebug); log != nil {
			log.Log(hs.ctx, slog.LevelDebug, "reply not sent", "err", err)
		}
	}
}

// fail ends a connection that broke under us.
func (h *Handler) fail(s *session, during string, err error) bool {
	s.err, s.cause = fmt.Errorf("%s: %w", during, err), metrics.CauseError
	if s.ctx.Err() != nil {
		s.cause = endCause(s.ctx)
	}
	return false
}

// closeRefused closes a session that never reached its relay.
func (h *Handler) closeRefused(s *session) {
	if s.server != nil {
		s.server.Close()
	}
	closePolitely(s.conn)
}

// panicked notes a defect in one connection's path; the others go on.
func (h *Handler) panicked(s *session, where string, p any) {
	s.err, s.cause = fmt.Errorf("panic: %v", p), metrics.CauseError
	h.metrics.Conn.Panics.Of(where).Inc()
	h.log.LogAttrs(s.ctx, slog.LevelError, "panic in a connection", slog.String("id", s.ID()),
		slog.Any("panic", p), slog.String("stack", string(debug.Stack())))
}

// endCause is why a session's context ended, as the record says it.
func endCause(ctx context.Context) string {
	if ended, ok := errors.AsType[*relay.EndError](context.Cause(ctx)); ok {
		return ended.Cause
	}
	return metrics.CauseDrained
}

func addrPort(a net.Addr) netip.AddrPort {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	ap := tcp.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
