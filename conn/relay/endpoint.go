package relay

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// deliverTimeout bounds the wait for a peer to take what is queued for it
// before it sees the other side's reset.
const deliverTimeout = 5 * time.Second

// maxWrappers bounds how many conns are looked through for the socket.
const maxWrappers = 8

// end is one side of a relay.
type end struct {
	*dress              // nil: the end is bare
	fd      int32       // the descriptor of a bare end
	watched uint32      // the events that a reactor reports of it; under the tunnel's lock
	finSent atomic.Bool // our end of stream is sent, or about to be
	dead    bool        // reset, or failed; under the tunnel's lock
	isTCP   bool        // it is a TCP socket, or runs over one
}

// dress is the conn of an end that is not bare.
type dress struct {
	conn net.Conn
	raw  syscall.RawConn // nil: the conn cannot tell when it is readable
	tcp  *net.TCPConn    // conn itself, or what TLS runs over; else nil
	// take and give are the system calls of the pumps that read and write it, as raw
	// takes them: made once.
	take, give func(fd uintptr)
}

func (e *end) init(conn net.Conn) {
	e.dress = &dress{conn: conn}
	// Kerberos' protection may run over TLS.
	for range maxWrappers {
		wrapped, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		conn = wrapped.NetConn()
	}
	e.tcp, e.isTCP = conn.(*net.TCPConn)
	e.initReadiness()
	e.readUrgentInPlace()
}

// isSocket says whether the end can be read and written without waiting.
func (e *end) isSocket() bool { return e.isBare() || e.raw != nil }

// resetBehindEnd says whether the peer was reset after its end of stream, and
// before ours. It is Linux's alone to see that.
func (e *end) resetBehindEnd() bool {
	// The first saves a system call, the last is needed: our own end of stream closes
	// the socket as well.
	return !e.finSent.Load() && e.disconnected() && !e.finSent.Load()
}

// closeWrite passes on an end of stream, and sets finSent if the conn can.
func (e *end) closeWrite() {
	if e.isBare() {
		e.finSent.Store(true)
		e.shutBare()
		return
	}
	if half, ok := e.conn.(interface{ CloseWrite() error }); ok {
		e.finSent.Store(true)
		// It fails on a peer that is gone already, which its reader will find.
		_ = half.CloseWrite()
	}
}

// past is a deadline that has expired, whatever a fake clock shows.
func past() time.Time { return time.Unix(1, 0) }

// resetOnClose makes Close send a reset and drop what is queued.
func (e *end) resetOnClose() {
	switch { // it fails on a socket that is gone, which is as good
	case e.isBare():
		e.resetBare()
	case e.tcp != nil:
		_ = e.tcp.SetLinger(0)
	}
}

// Reset closes a conn with a reset, once its peer has taken what is queued for
// it, or has had five seconds to.
func Reset(ctx context.Context, conn net.Conn) {
	var e end
	e.init(conn)
	e.resetWhenDelivered(ctx.Done())
	_ = conn.Close()
}

// resetWhenDelivered waits until the peer has taken what is queued for it, and
// makes Close send a reset. A linger of 0 at once would drop the queue.
func (e *end) resetWhenDelivered(hurried <-chan struct{}) {
	if e.queued() > 0 {
		e.awaitDelivery(hurried)
	}
	e.resetOnClose()
}

func (e *end) awaitDelivery(hurried <-chan struct{}) {
	until := time.Now().Add(deliverTimeout)
	// Linux has no event for an empty send queue.
	wait := time.Millisecond
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for e.queued() > 0 && time.Now().Before(until) {
		select {
		case <-hurried:
			return
		case <-timer.C:
		}
		wait = min(2*wait, 50*time.Millisecond)
		timer.Reset(wait)
	}
}
