package conn

import (
	"context"
	"net"
	"net/netip"

	"cleversocks/authsvc"
)

// tlsTurns has the sources of TLS handshakes take turns at the processor. A client
// spends little on a hello, and has us agree on a key and sign for it; without
// turns a thousand a second from one source would be in front of everybody else's.
// What a handshake computes lies between a read of what the client said and the
// next read or write, so it has its turn there and waits for no client with it.
type tlsTurns struct {
	queue  *authsvc.Queue
	ctx    context.Context //nolint:containedctx // the handshake's, as long as this lives
	source netip.Addr
	has    bool
}

// read is conn's, and a turn behind it.
func (t *tlsTurns) read(conn net.Conn, b []byte) (int, error) {
	t.Rest()
	n, err := conn.Read(b)
	if n == 0 || err != nil {
		return n, err
	}
	if err := t.queue.Enter(t.ctx, t.source); err != nil {
		return 0, err
	}
	t.has = true
	return n, nil
}

// Rest gives the turn to others, until the next read.
func (t *tlsTurns) Rest() {
	if t.has {
		t.has = false
		t.queue.Leave()
	}
}
