package conn

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync/atomic"

	"cleversocks/authsvc"
	"cleversocks/listener/tlsconf"
	"cleversocks/metrics"
)

// NewHandshakeQueue makes the queue that the handshakes of all TLS doors share:
// see tlsTurns. The gauge shows how many wait for their turn.
func NewHandshakeQueue(waiting *atomic.Int64) *authsvc.Queue {
	// Sources are not bounded by themselves: a source with many at once may be a
	// network behind one address, and waits for its own.
	return authsvc.NewQueue(authsvc.QueueOptions{Concurrency: runtime.GOMAXPROCS(0), PerSource: handshakesWaiting, Waiting: handshakesWaiting, Gauge: waiting})
}

// handshakesWaiting bounds the queue. Each is a connection, and costs less than that.
const handshakesWaiting = 1 << 16

// OverTLS shakes hands. A verified client certificate becomes credentials.
func OverTLS(door *tlsconf.Door, q *authsvc.Queue, m *metrics.Registry) Step {
	return func(ctx context.Context, e *Entrance) error {
		turns := &tlsTurns{queue: q, ctx: ctx, source: e.source()}
		below := &tlsSocket{Conn: e.Conn, turns: turns}
		c := tls.Server(below, door.Config())
		defer turns.Rest()
		err := shake(ctx, c, door.Waits())
		below.turns = nil
		if err != nil {
			m.Listener.TLS.Of(tlsOutcome(err)).Inc()
			return err
		}
		state := c.ConnectionState()
		if tlsconf.IsChallenge(state) {
			return fmt.Errorf("an ACME server's challenge, answered: %w", io.EOF)
		}
		if state.DidResume {
			m.Listener.TLS.Of("resumed").Inc()
		} else {
			m.Listener.TLS.Of("ok").Inc()
		}
		e.Conn = &tlsConn{Conn: c, below: below}
		if names := tlsconf.Names(state); len(names) > 0 {
			e.Credentials, e.Proof = authsvc.Certificate{Names: names}, tlsconf.ProofOf(state)
		}
		return nil
	}
}

// shake is a handshake. The session's deadline and its end bound what it reads
// and writes; a context does the same at the price of one more goroutine, and is
// for a handshake that may wait for something else.
func shake(ctx context.Context, c *tls.Conn, waits bool) error {
	if waits {
		return c.HandshakeContext(ctx)
	}
	return c.Handshake() //nolint:noctx // see above
}

// tlsOutcome tells a client that has no acceptable certificate from one that
// does not speak TLS, or left.
func tlsOutcome(err error) string {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok || errors.Is(err, tlsconf.ErrRevoked) {
		return "refused"
	}
	return "failed"
}
