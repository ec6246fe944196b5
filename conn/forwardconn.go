package conn

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"cleversocks/conn/netaddr"
	"cleversocks/conn/relay"
	"cleversocks/conn/upstream"
)

// forwardConn is a server's connection that counts, meters and ends like a
// relay.
type forwardConn struct {
	net.Conn
	of     *forwarder
	route  *session // where it goes, by which rule
	meter  relay.Meter
	closed chan struct{}                  // ends the meter's pauses
	once   sync.Once                      // closes it
	judged atomic.Pointer[Policy]         // that last let it be
	end    atomic.Pointer[relay.EndError] // why it was ended from here
}

// Close ends it, and its place at an upstream.
func (c *forwardConn) Close() error {
	c.of.dialed.remove(netaddr.Of(c.LocalAddr()), dialedConn{c.Conn})
	c.of.servers.remove(c)
	c.once.Do(func() { close(c.closed) })
	c.route.leave()
	return c.Conn.Close()
}

// Quiet reports whether the server has said nothing since it was last read.
func (c *forwardConn) Quiet() bool { return c.end.Load() == nil && upstream.Quiet(c.Conn) }

// Read counts what goes to the client.
func (c *forwardConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.of.metrics.Relay.BytesOut.Add(n)
	return n, c.moved(relay.Out, n, err)
}

// Write counts what comes from the client.
func (c *forwardConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.of.metrics.Relay.BytesIn.Add(n)
	return n, c.moved(relay.In, n, err)
}

// moved asks the rules, if they are new, and the meter, and pauses as it says.
func (c *forwardConn) moved(d relay.Direction, n int, err error) error {
	if n == 0 || err != nil {
		return err
	}
	if c.judge() {
		return relay.ErrRevoked
	}
	if c.meter == nil {
		return nil
	}
	return c.ended(relay.Pay(c.meter, d, n, c.sleep))
}

// sleep waits out a pause of the meter's, as long as the connection lasts.
func (c *forwardConn) sleep(pause time.Duration) error {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-c.closed: // its client has left
		return net.ErrClosed
	case <-c.route.ctx.Done():
		return context.Cause(c.route.ctx)
	}
}

// judge asks the rules of now, unless these let the connection be before, and
// reports whether they ended it. That happens once, whoever asks.
func (c *forwardConn) judge() (revoked bool) {
	p := c.of.judge.current.Load()
	if c.judged.Swap(p) == p || !p.Revoke || !c.of.judge.revoked(c.route, p) {
		return false
	}
	_ = c.ended(relay.ErrRevoked)
	return true
}

// ended closes the connection for a reason of the daemon's own, and notes it.
func (c *forwardConn) ended(err error) error {
	if end, ok := errors.AsType[*relay.EndError](err); ok {
		c.end.Store(end)
		_ = c.Close()
	}
	return err
}

// forwardConns are the open connections to servers of plain requests, so that
// a revocation finds those on which nothing moves. The zero value is ready.
type forwardConns struct {
	mu   sync.Mutex
	open map[*forwardConn]struct{}
}

func (f *forwardConns) add(c *forwardConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		f.open = make(map[*forwardConn]struct{})
	}
	f.open[c] = struct{}{}
}

func (f *forwardConns) remove(c *forwardConn) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.open, c)
}

// endLapsed ends those of users who may not use the proxy now.
func (f *forwardConns) endLapsed(p *Policy) (n int) {
	f.mu.Lock()
	open := slices.Collect(maps.Keys(f.open))
	f.mu.Unlock()
	for _, c := range open {
		if c.end.Load() == nil && c.of.judge.endLapsed(c.route, p) {
			_ = c.ended(relay.ErrRevoked)
			n++
		}
	}
	return n
}

// revoke ends those that the current policy refuses, and returns how many.
func (f *forwardConns) revoke() (n int) {
	f.mu.Lock()
	open := slices.Collect(maps.Keys(f.open)) // judged without the lock: ending one removes it
	f.mu.Unlock()
	for _, c := range open {
		if c.judge() {
			n++
		}
	}
	return n
}
