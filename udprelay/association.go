package udprelay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

const (
	// rebindAfter is how long the client's port must be silent before another
	// port of its address takes over, which is what a NAT that forgot its
	// mapping looks like. Until then the port that spoke first is the client,
	// and its neighbours on the same address can neither send in its name nor
	// draw its replies to themselves.
	rebindAfter = 30 * time.Second
	// controlBytes is what a client may send on the control connection, where
	// nothing is to be said, before that ends the association.
	controlBytes = 64 << 10
)

// The reasons an association ends by itself, as context causes.
var (
	errIdle          = errors.New("idle")
	errControl       = errors.New("control connection closed")
	errControlReset  = errors.New("control connection reset")
	errControlTalks  = errors.New("too many bytes on the control connection")
	errUpstreamEnded = errors.New("upstream ended the association")
	errQuota         = errors.New("quota used up")
)

// association is one client's. Its goroutines are the watch on the control
// connection (and on the upstream's), one pump per socket, and the look-ups
// of names; serve waits for all of them.
type association struct {
	r    *Relay
	s    Session
	o    Options
	seat string

	clientIP netip.Addr
	relay    *socket        // towards the client
	local    netip.AddrPort // relay's
	upstream *upstream      // nil: direct

	outer context.Context // Serve's
	ctx   context.Context // the association's: its sockets and goroutines live as long as it
	end   context.CancelCauseFunc
	began time.Time
	wg    sync.WaitGroup

	client atomic.Pointer[client]
	heard  atomic.Int64 // when the client's port last sent something valid
	moved  atomic.Int64 // when a datagram last was relayed, either way

	routes    routes
	names     names
	fragments reassembler

	bytes, datagrams [2]atomic.Int64
}

// client is where replies go, learnt from the client's first valid datagram.
type client struct{ at endpoint }

func newAssociation(r *Relay, s Session, o Options) *association {
	ip := s.Client.Addr().Unmap().WithZone("")
	a := &association{
		r: r, s: s, o: o, clientIP: ip, seat: "user " + s.Identity.User, began: time.Now(),
		routes: newRoutes(), names: newNames(), fragments: reassembler{budget: &r.fragments},
	}
	if s.Identity.User == "" {
		seat := ip
		if ip.Is6() {
			seat = netip.PrefixFrom(ip, 64).Masked().Addr()
		}
		a.seat = "addr " + seat.String()
	}
	return a
}

// listen opens the socket towards the client.
func (a *association) listen(ctx context.Context) error {
	local := netip.IPv4Unspecified()
	if tcp, ok := a.s.Control.LocalAddr().(*net.TCPAddr); ok {
		local = tcp.AddrPort().Addr().Unmap()
	}
	if local.IsUnspecified() {
		// A unix socket: the client is on this host.
		local = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	conn, err := listenClient(ctx, local, a.o.Ports)
	if err != nil {
		return err
	}
	if a.relay, err = newSocket(conn); err != nil {
		return errors.Join(err, conn.Close())
	}
	bound := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	a.local = netip.AddrPortFrom(bound.Addr().Unmap().WithZone(""), bound.Port())
	if !a.clientIP.IsValid() {
		a.clientIP = a.local.Addr()
	}
	return nil
}

// start makes the association's scope.
func (a *association) start(ctx context.Context) {
	a.outer = ctx
	a.ctx, a.end = context.WithCancelCause(ctx)
}

// serve replies, runs until the end, and cleans up.
func (a *association) serve() Result {
	bound := a.local
	if a.s.Advertise.IsValid() {
		bound = netip.AddrPortFrom(a.s.Advertise.Unmap().WithZone(""), bound.Port())
	}
	_ = a.s.Control.SetReadDeadline(time.Time{}) // the handshake's
	err := a.s.Reply(wire.ReplySucceeded, bound)
	if err == nil {
		a.spawn("udp client pump", func() error { return a.relay.receive(a.ctx, a.r.pool, newInbound(a).handle) })
		a.spawn("udp control watch", a.watchControl)
		if a.upstream != nil {
			a.spawn("udp upstream watch", a.watchUpstream)
		}
		a.waitIdle()
		err = context.Cause(a.ctx)
	}
	a.shut(err)
	return a.result(bound, err)
}

// spawn runs f as one of the association's goroutines: its error, or its
// panic, ends the association.
func (a *association) spawn(what string, f func() error) {
	a.wg.Go(func() {
		defer func() {
			if v := recover(); v != nil {
				a.r.metrics.Conn.Panics.Of("relay").Inc()
				a.r.log.Error("panic", "id", a.s.ID, "where", what, "value", fmt.Sprint(v), "stack", string(debug.Stack()))
				a.end(fmt.Errorf("%s: panic", what))
			}
		}()
		if err := f(); err != nil {
			a.end(fmt.Errorf("%s: %w", what, err))
		}
	})
}

// shut ends all goroutines, then closes all sockets. Expired deadlines come
// first: closing a socket waits for its pump, which may itself wait to write
// to another. Control is left open, without a deadline.
func (a *association) shut(cause error) {
	a.end(cause)
	past := time.Unix(1, 0)
	_ = a.s.Control.SetReadDeadline(past)
	if a.upstream != nil {
		_ = a.upstream.control.Close()
	}
	sockets := append(a.routes.stop(), a.relay)
	for _, s := range sockets {
		_ = s.conn.SetDeadline(past)
	}
	a.wg.Wait()
	for _, s := range sockets {
		s.close()
	}
	a.fragments.close()
	_ = a.s.Control.SetReadDeadline(time.Time{})
}

// now is the time since the association began, in nanoseconds.
func (a *association) now() int64 { return int64(time.Since(a.began)) }

// waitIdle returns when the association's scope has ended, or ends it when
// nothing moved for the idle timeout. It looks at a time stamp that pumps
// leave, so that a datagram costs no timer.
func (a *association) waitIdle() {
	timer := time.NewTimer(a.o.IdleTimeout)
	defer timer.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-timer.C:
			left := a.o.IdleTimeout - time.Duration(a.now()-a.moved.Load())
			if left <= 0 {
				a.end(errIdle)
				return
			}
			timer.Reset(left)
		}
	}
}

// watchControl ends the association with its control connection (RFC 1928
// §7). The client has nothing to say on it: bytes are dropped, up to a bound.
func (a *association) watchControl() error {
	switch err := discard(a.s.Control); {
	case errors.Is(err, syscall.ECONNRESET):
		return errControlReset
	case errors.Is(err, errControlTalks):
		return errControlTalks
	default:
		return errControl // or the association has ended already: the first cause stays
	}
}

// discard reads c to its end, its deadline, or controlBytes.
func discard(c net.Conn) error {
	var buf [512]byte
	for total := 0; total < controlBytes; {
		n, err := c.Read(buf[:])
		total += n
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, os.ErrDeadlineExceeded) {
				return nil
			}
			return err
		}
	}
	return errControlTalks
}

// account adds a batch's tally and payload bytes.
func (a *association) account(d Direction, t *tally, bytes int, now int64) {
	for i, n := range t {
		if n > 0 && outcome(i) != pending {
			a.r.counts[d][i].Add(n)
		}
	}
	if t[relayed] == 0 {
		return
	}
	a.moved.Store(now)
	a.datagrams[d].Add(int64(t[relayed]))
	a.bytes[d].Add(int64(bytes))
	if d == FromClient {
		a.r.metrics.Relay.BytesIn.Add(bytes)
	} else {
		a.r.metrics.Relay.BytesOut.Add(bytes)
	}
}

// metered asks the session's meter about one datagram.
func (a *association) metered(d Direction, n int) outcome {
	if a.s.Meter == nil {
		return relayed
	}
	switch a.s.Meter(d, n) {
	case MeterPass:
		return relayed
	case MeterEnd:
		a.end(errQuota)
		return limited
	default:
		return limited
	}
}

func (a *association) result(bound netip.AddrPort, err error) Result {
	res := Result{
		Bound: bound, Err: err,
		BytesIn: a.bytes[FromClient].Load(), BytesOut: a.bytes[ToClient].Load(),
		DatagramsIn: a.datagrams[FromClient].Load(), DatagramsOut: a.datagrams[ToClient].Load(),
	}
	switch {
	case errors.Is(err, errIdle):
		res.Cause = metrics.CauseIdle
	case errors.Is(err, errControl):
		res.Cause = metrics.CauseClientClosed
	case errors.Is(err, errControlReset):
		res.Cause = metrics.CauseClientReset
	case errors.Is(err, errUpstreamEnded):
		res.Cause = metrics.CauseServerClosed
	case errors.Is(err, errQuota):
		res.Cause = metrics.CauseQuota
	case a.outer.Err() != nil:
		res.Cause = metrics.CauseDrained
	default:
		res.Cause = metrics.CauseError
	}
	return res
}
