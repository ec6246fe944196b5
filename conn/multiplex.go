package conn

import (
	"cmp"
	"log/slog"

	"cleversocks/conn/http2front"
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

// multiplex serves an HTTP/2 connection: each request in it is a session of
// its own. The connection itself asks for nothing and has no record.
func (h *Handler) multiplex(hs *handshake) bool {
	s := hs.session
	hs.release() // the front ends with the context by itself, and says so to the client
	err := http2front.Serve(s.ctx, s.conn, hs.in, http2front.Options{
		Open: func(c http2front.Stream) bool {
			reason := h.admitStream(s, c)
			if reason != "" {
				h.metrics.Listener.Refused.Of(reason).Inc()
			}
			return reason != ""
		},
		Idle: cmp.Or(s.policy.Relay.Idle, forwardIdle), Drain: h.draining, Panics: h.panics,
		Full: h.metrics.Limits.Of(metrics.LimitStreams).Inc,
	})
	s.cause = ""
	if log := s.logger(h.log, slog.LevelDebug); log != nil {
		log.Log(s.ctx, slog.LevelDebug, "HTTP/2 connection ended", "err", err)
	}
	return false
}
