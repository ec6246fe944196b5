package httpforward

import (
	"bufio"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// lastWord is how long the answer to an idle connection may take to be sent.
const lastWord = time.Second

// client is the client's connection. Its deadlines pass through here, because
// a connection that has expired takes no others.
type client struct {
	conn    net.Conn
	r       *bufio.Reader
	moved   func()
	in, out atomic.Int64 // bytes of requests and answers

	mu      sync.Mutex
	expired bool
}

// write sends bytes of an answer.
func (c *client) write(p []byte) (int, error) {
	n, err := c.conn.Write(p)
	if n > 0 {
		c.out.Add(int64(n))
		c.moved()
	}
	return n, err
}

// took notes n bytes of a request.
func (c *client) took(n int) {
	if n > 0 {
		c.in.Add(int64(n))
		c.moved()
	}
}

// readBy bounds the reads from now on; a zero time does not.
func (c *client) readBy(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.expired {
		_ = c.conn.SetReadDeadline(t) // a conn that cannot fails its next read too
	}
}

// over reports whether it has expired.
func (c *client) over() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.expired
}

// interruptRead ends a read that waits.
func (c *client) interruptRead() { c.readBy(time.Unix(1, 0)) }

// expire ends every read and write for good. One that was idle may still be
// told of it.
func (c *client) expire(cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired = true
	_ = c.conn.SetDeadline(time.Unix(1, 0))
	if errors.Is(cause, errIdle) {
		_ = c.conn.SetWriteDeadline(time.Now().Add(lastWord))
	}
}

// restore takes the deadlines off.
func (c *client) restore() { _ = c.conn.SetDeadline(time.Time{}) }

// closeWrite tells the client that the answer has ended.
func (c *client) closeWrite() {
	if half, ok := c.conn.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // fails on one that is gone
	}
}

// idleTimer calls a function when nothing has moved for a time. A touch costs
// next to nothing: the timer itself looks only when it fires.
type idleTimer struct {
	after  time.Duration
	begun  time.Time
	last   atomic.Int64 // since begun
	expire func()

	mu    sync.Mutex
	timer *time.Timer
}

func newIdleTimer(after time.Duration, expire func()) *idleTimer {
	t := &idleTimer{after: after, begun: time.Now(), expire: expire}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer = time.AfterFunc(after, t.look)
	return t
}

func (t *idleTimer) touch() { t.last.Store(int64(time.Since(t.begun))) }

func (t *idleTimer) look() {
	left := t.after - (time.Since(t.begun) - time.Duration(t.last.Load()))
	if left <= 0 {
		t.expire()
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.timer.Reset(left)
}

func (t *idleTimer) stop() { t.timer.Stop() }
