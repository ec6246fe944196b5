package conn

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/relay"
	"cleversocks/conn/task"
)

// errClientGone ends a session whose client has left during a dial.
var errClientGone = fmt.Errorf("the client left before it was connected: %w",
	&relay.EndError{Cause: cause.ClientClosed})

// errLeftLogin ends one whose client has left while its log-in waited for its turn.
var errLeftLogin = fmt.Errorf("the client left before it was logged in: %w",
	&relay.EndError{Cause: cause.HandshakeFailed})

// watchAfter is how long a dial takes before its client is watched, and at
// most twice that. Nearly every dial is done by then, and costs an entry in a
// map.
const watchAfter = 20 * time.Millisecond

// clientWatch watches the clients of dials that take long. One timer serves all
// dials: one for each would have the runtime wake up for nothing at every connection.
type clientWatch struct {
	tasks   *task.Scope   // of the watching goroutines
	after   time.Duration // is when a client is watched; until twice that, it may not be
	gone    error         // ends the session of one that has left
	mu      sync.Mutex
	pending map[*watchedDial]struct{} // the dials whose client is not watched yet
	armed   bool                      // the timer runs
}

// watchedDial is a dial under way.
type watchedDial struct {
	conn   net.Conn
	cancel context.CancelCauseFunc
	gone   error
	began  time.Time
	ahead  bool          // the client has sent more than its handshake
	done   chan struct{} // nil: not watched; else closed when the watch is over
}

// client ends the session when its client closes or resets
// the connection, without taking a byte from it. A client that has sent
// something ahead may shut its side down and still want the answer: then only
// a reset counts. stop ends the watch, waits for it, and leaves the connection
// readable.
func (w *clientWatch) client(s *session, ahead bool) (stop func()) {
	d := &watchedDial{conn: s.conn, cancel: s.cancel, gone: w.gone, began: time.Now(), ahead: ahead}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.pending == nil {
		w.pending = make(map[*watchedDial]struct{})
	}
	w.pending[d] = struct{}{}
	w.arm()
	return func() { w.stop(d) }
}

func (w *clientWatch) stop(d *watchedDial) {
	w.mu.Lock()
	delete(w.pending, d)
	done := d.done
	w.mu.Unlock()
	if done != nil {
		_ = d.conn.SetReadDeadline(time.Unix(1, 0)) // unblocks the watch
		<-done
		_ = d.conn.SetReadDeadline(time.Time{})
	}
}

// arm sees to it that somebody looks at the pending dials. The caller holds
// the lock.
func (w *clientWatch) arm() {
	if w.armed || len(w.pending) == 0 {
		return
	}
	w.armed = true
	time.AfterFunc(w.after, func() {
		_ = w.tasks.Contain(func() error { w.look(); return nil }) // a panic is told
	})
}

// look starts to watch the clients of the dials that have taken long enough.
func (w *clientWatch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed = false
	for d := range w.pending {
		if time.Since(d.began) < w.after {
			continue
		}
		delete(w.pending, d)
		d.done = make(chan struct{})
		w.tasks.Go(func() error { d.watch(); return nil })
	}
	w.arm()
}

// watch waits for the client to leave, or for stop.
func (d *watchedDial) watch() {
	defer close(d.done)
	if clientGone(d.conn, d.ahead) {
		d.cancel(d.gone)
	}
}
