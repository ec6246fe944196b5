package conn

import (
	"cmp"
	"context"
	"log/slog"

	"cleversocks/conn/http2front"
	"cleversocks/conn/task"
	"cleversocks/metrics"
)

// isHTTP2 tells a client of HTTP/2 by its preface, which no request of HTTP/1
// begins like. With TLS it has been agreed on by ALPN; without, the client
// knows.
func (c httpCodec) isHTTP2(hs *handshake) (bool, error) {
	const method = "PRI "
	start, err := hs.in.Peek(len(method))
	if err != nil || string(start) != method || hs.inner {
		return false, nil //nolint:nilerr // the head's reader meets it again, and says what it means
	}
	preface, err := hs.in.Peek(len(http2front.Preface))
	return err == nil && string(preface) == http2front.Preface, err
}

// multiplexer serves the connections of HTTP/2.
type multiplexer struct {
	log      *slog.Logger
	metrics  *metrics.Registry
	panics   *task.Reporter
	draining context.Context //nolint:containedctx // an event, not a scope
	// admit serves a stream as a session.
	admit func(of *session, c http2front.Stream) (refused string)
}

// serve serves an HTTP/2 connection: each request in it is a session of
// its own. The connection itself asks for nothing and has no record.
func (m *multiplexer) serve(hs *handshake) bool {
	s := hs.session
	hs.release() // the front ends with the context by itself, and says so to the client
	err := http2front.Serve(s.ctx, s.conn, hs.in, http2front.Options{
		Open: func(c http2front.Stream) bool {
			reason := m.admit(s, c)
			if reason != "" {
				m.metrics.Listener.Refused.Of(reason).Inc()
			}
			return reason != ""
		},
		Idle: cmp.Or(s.policy.Relay.Idle, forwardIdle), Drain: m.draining, Panics: m.panics,
		Full: m.metrics.Limits.Of(metrics.LimitStreams).Inc,
	})
	s.cause = ""
	if log := s.logger(m.log, slog.LevelDebug); log != nil {
		log.Log(s.ctx, slog.LevelDebug, "HTTP/2 connection ended", "err", err)
	}
	return false
}
