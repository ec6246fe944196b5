package conn

import (
	"context"
	"errors"
	"net"
	"time"
)

// errClientGone ends a dial whose client has left.
var errClientGone = errors.New("the client left before it was connected")

// watchAfter is how long a dial takes before its client is watched. Nearly
// every dial is done by then and pays one timer, not a goroutine.
const watchAfter = 20 * time.Millisecond

// watchClient gives a context that ends with errClientGone when the client
// closes or resets its connection, without taking a byte from it. stop ends
// the watch, waits for it, and leaves the connection readable.
func watchClient(ctx context.Context, c *net.TCPConn) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	started := make(chan struct{})
	done := make(chan struct{})
	timer := time.AfterFunc(watchAfter, func() {
		defer close(done)
		close(started)
		if clientGone(c) {
			cancel(errClientGone)
		}
	})
	return watched, func() {
		if !timer.Stop() {
			<-started
			_ = c.SetReadDeadline(time.Unix(1, 0)) // unblocks the watch
			<-done
			_ = c.SetReadDeadline(time.Time{})
		}
		cancel(nil)
	}
}
