package conn

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/relay"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
)

// What a refused client may still send before its connection is closed: its
// bytes are read so that the kernel does not answer them with a reset, which
// would destroy the reply on its way.
const (
	lingerTime  = 2 * time.Second
	lingerBytes = 64 << 10
	// lingerEnded is what is left of that for a session that has to end, as at
	// the deadline of a drain: the process has no more time.
	lingerEnded = 100 * time.Millisecond
)

// closePolitely ends a connection whose last reply must arrive: it shuts the
// write side down, reads a little of what still comes, and closes. It hurries
// when ctx ends, or has ended.
func closePolitely(ctx context.Context, c net.Conn) {
	defer c.Close()
	half, ok := c.(halfCloser)
	if !ok || half.CloseWrite() != nil {
		return
	}
	if c.SetDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Now().Add(lingerEnded)) })()
	var sink [512]byte
	for read := 0; read < lingerBytes; {
		n, err := c.Read(sink[:])
		if err != nil {
			return
		}
		read += n
	}
}

// closeRefused closes a session that never reached its relay. As in a relay, a
// side that broke is passed on as a reset.
func (s *session) closeRefused() {
	switch {
	case s.server == nil:
	case s.cause == cause.ClientReset:
		relay.Reset(s.ctx, s.server)
	default:
		s.server.Close()
	}
	switch {
	case s.toldByTLS:
		closePolitely(s.ctx, s.conn)
	case s.cause == cause.ServerReset, s.protocol == wire.Transparent:
		relay.Reset(s.ctx, s.conn) // to a transparent one: what it tried to reach is not there
	case atDoor(s.err):
		closePolitely(s.ctx, s.socket) // TLS has words of its own for what was wrong
	case s.protocol == wire.ProtocolUnknown:
		s.conn.Close() // no reply is on its way
	default:
		closePolitely(s.ctx, s.conn)
	}
}

// fail ends a connection that broke under us.
func (s *session) fail(during string, err error) bool {
	s.err = fmt.Errorf("%s: %w", during, err)
	s.cause = s.outcome(inTunnel, err).cause
	return false
}

// panicked notes a defect in one connection's path; the others go on.
func (s *session) panicked(panics *task.Reporter, where string, p any) {
	s.cause = cause.Error
	s.err = panics.Panicked(s.ctx, where, p, slog.String("id", s.ID()), slog.String("client", s.caller()))
}

// clientLost ends a connection whose client could not be told that it is
// connected.
func (s *session) clientLost(err error) bool {
	return s.fail("reply", mark(err, errClientBroke))
}

// notPaid ends a connection whose user may not move the client's first bytes.
func (s *session) notPaid(err error) bool { return s.fail("first bytes", err) }

// serverLost ends a connection whose server did not take the client's first
// bytes. What it said before it broke is still for the client, as in a relay.
func (s *session) serverLost(err error) bool {
	s.fail("first bytes", mark(err, errServerBroke))
	if s.ctx.Err() != nil {
		return false
	}
	until := time.Now().Add(lingerTime)
	_ = s.server.SetReadDeadline(until) // a conn that cannot fails its next read too
	_ = s.conn.SetWriteDeadline(until)
	n, _ := io.Copy(s.conn, s.server) // what ended it is known
	if s.charge.user != nil {
		s.charge.Settle(relay.Out, 0, int(n))
	}
	s.moved(relay.Out, int(n))
	return false
}
