package conn

import (
	"cmp"
	"errors"
	"log/slog"
	"net/netip"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks5"
	"cleversocks/metrics"
)

// replies is the last step of a request: the client is told what came of it, as
// the table of outcomes says, and that is counted and noted for the record. The
// methods that answer with a bool report whether the connection goes on.
type replies struct {
	log     *slog.Logger
	metrics *metrics.Conn
}

// granted tells the client that it is connected. The reply fits into an empty
// socket buffer: this cannot block, so it needs no deadline.
func (r *replies) granted(hs *handshake) bool {
	s := hs.session
	r.metrics.Requests.Of(s.request.Command.String(), wire.ReplySucceeded.String()).Inc()
	if err := hs.codec.reply(hs, wire.ReplySucceeded, s.boundAddress()); err != nil {
		return s.clientLost(err)
	}
	s.replied = true
	return true
}

// handshakeFailed ends a connection whose request was not read.
func (r *replies) handshakeFailed(hs *handshake, err error) bool {
	s := hs.session
	o := s.outcome(inHandshake, err)
	s.err, s.cause = err, o.cause
	r.metrics.Handshakes.Of(s.protocol.String(), o.handshake).Inc()
	if owesReply(err) {
		r.refuse(hs, o)
	}
	if log := s.logger(r.log, slog.LevelDebug); log != nil {
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
func (r *replies) requestFailed(hs *handshake, err error) bool {
	s := hs.session
	o := s.outcome(inRequest, err)
	s.err, s.cause = err, o.cause
	r.refused(s, o)
	r.refuse(hs, o)
	if log := s.logger(r.log, slog.LevelDebug); log != nil {
		log.Log(s.ctx, slog.LevelDebug, "request failed", "target", s.request.Dest.String(), "reply", s.code.String(), "err", err)
	}
	return false
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

// refuse sends a failure reply, as far as the client still listens. The
// request counts by what was decided, the record tells what was sent.
func (r *replies) refuse(hs *handshake, o outcome) {
	hs.code, hs.failure = o.reply, o
	r.metrics.Requests.Of(hs.request.Command.String(), o.reply.String()).Inc()
	if errors.Is(hs.err, errClientGone) {
		return
	}
	err := hs.codec.reply(hs, o.reply, netip.AddrPort{})
	hs.replied = err == nil
	if err != nil {
		if log := hs.logger(r.log, slog.LevelDebug); log != nil {
			log.Log(hs.ctx, slog.LevelDebug, "reply not sent", "err", err)
		}
	}
}
