package conn

import (
	"cmp"
	"net/netip"

	"cleversocks/bind"
	"cleversocks/conn/wire"
)

// bind serves BIND (RFC 1928 §4) up to its second reply, and reports whether
// there is a tunnel to the peer that connected.
func (h *Handler) bind(hs *handshake) bool {
	s := hs.session
	hs.release() // from here on the wait ends with the context by itself, and answers
	result := s.policy.Bind.Serve(s.ctx, bind.Session{
		Control: s.conn, Client: s.client, Requested: s.request.Dest, Identity: s.identity,
		Advertise: s.advertised(),
		Decide:    h.decideNow(s),
		Complete:  h.completeNow(s),
		Resolve:   h.resolveNow(s),
		ReplyCode: replyCode,
		Reply: func(code wire.ReplyCode, addr netip.AddrPort) error {
			err := hs.codec.reply(hs, code, addr)
			s.replied = err == nil // the last of two counts
			return err
		},
	})
	s.rule, s.local, s.hostIP = result.Rule, result.Bound, result.PeerAddr
	s.code = result.Reply
	h.metrics.Conn.Requests.Of(s.request.Command.String(), s.code.String()).Inc()
	if result.Peer == nil {
		h.commandEnded(s, result.Cause, result.Err)
		return false
	}
	s.server, s.dest = result.Peer, result.Judged
	return h.passAhead(hs, result.Early)
}

// commandEnded notes why a BIND or an association ended: for a reason that its
// error has here, or else for its own.
func (h *Handler) commandEnded(s *session, own string, err error) {
	o := s.outcome(inCommand, err)
	s.cause, s.err = cmp.Or(o.cause, own), err
	h.refused(s, o)
}
