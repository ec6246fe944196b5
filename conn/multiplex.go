package conn

import (
	"cmp"
	"context"
	"log/slog"

	"cleversocks/conn/http2front"
	"cleversocks/conn/task"
	"cleversocks/metrics"
)

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
func (m *multiplexer) serve(d *driver) bool {
	s := d.session
	d.release() // the front ends with the context by itself, and says so to the client
	leaves, release := s.untilOld(m.draining)
	defer release()
	err := http2front.Serve(s.ctx, s.conn, d.reader(), http2front.Options{
		Open: func(c http2front.Stream) bool {
			reason := m.admit(s, c)
			if reason != "" {
				m.metrics.Listener.Refused.Of(reason).Inc()
			}
			return reason != ""
		},
		Idle: cmp.Or(s.policy.Relay.Idle, forwardIdle), Drain: leaves, Panics: m.panics,
		Full: m.metrics.Limits.Of(metrics.LimitStreams).Inc,
	})
	s.cause = ""
	if log := s.logger(m.log, slog.LevelDebug); log != nil {
		log.Log(s.ctx, slog.LevelDebug, "HTTP/2 connection ended", "err", err)
	}
	return false
}
