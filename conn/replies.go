package conn

import (
	"cmp"
	"log/slog"

	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// replies is the last step of a request: what came of it, as the table of outcomes
// says, is counted and noted for the record. The driver tells the client.
type replies struct {
	log     *slog.Logger
	metrics *metrics.Conn
}

// granted is for a request whose destination is reached.
func (r *replies) granted(s *session) {
	r.metrics.Requests.Of(s.request.Command.String(), wire.ReplySucceeded.String()).Inc()
}

// handshakeFailed is what an error means that ends a handshake. owed says that
// its request was understood, and is answered.
func (r *replies) handshakeFailed(s *session, err error, owed bool) outcome {
	o := s.outcome(inHandshake, err)
	s.err, s.cause = err, o.cause
	r.metrics.Handshakes.Of(s.protocol.String(), o.handshake).Inc()
	if owed {
		r.decided(s, o)
	}
	if log := s.logger(r.log, slog.LevelDebug); log != nil {
		log.Log(s.ctx, slog.LevelDebug, "handshake failed", "protocol", s.protocol.String(), "err", err)
	}
	return o
}

// requestFailed is what an error means for which a request is not served.
func (r *replies) requestFailed(s *session, err error) outcome {
	o := s.outcome(inRequest, err)
	s.err, s.cause = err, o.cause
	r.refused(s, o)
	r.decided(s, o)
	if log := s.logger(r.log, slog.LevelDebug); log != nil {
		log.Log(s.ctx, slog.LevelDebug, "request failed", "target", s.request.Dest.String(), "reply", s.code.String(), "err", err)
	}
	return o
}

// decided counts a request that fails by what was decided.
func (r *replies) decided(s *session, o outcome) {
	s.code = o.reply
	r.metrics.Requests.Of(s.request.Command.String(), o.reply.String()).Inc()
}

// commandEnded notes why a BIND or an association ended: for a reason that its
// error has here, or else for its own.
func (r *replies) commandEnded(s *session, own string, err error) {
	o := s.outcome(inCommand, err)
	s.cause, s.err = cmp.Or(o.cause, own), err
	r.refused(s, o)
}

// refused counts a request that policy refuses, whatever its protocol.
func (r *replies) refused(s *session, o outcome) {
	if o.refusal == "" {
		return
	}
	if o.rule != "" {
		s.rule = o.rule
	}
	r.metrics.Refused.Of(o.refusal).Inc()
}
