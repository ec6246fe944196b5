package udprelay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"cleversocks/aclsvc/ratelimit"
	"cleversocks/conn/cause"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/metrics"
)

// controlBytes is what a client may send on the control connection, where
// nothing is to be said, before that ends the association.
const controlBytes = 64 << 10

// The reasons for which an association ends by itself, as errors of its scope.
// That nothing moves is none of them: a VPN that sleeps for an hour goes on
// afterwards (see restPorts).
var (
	errControl       = errors.New("control connection closed")
	errControlReset  = errors.New("control connection reset")
	errControlTalks  = errors.New("too many bytes on the control connection")
	errUpstreamEnded = errors.New("upstream ended the association")
	errQuota         = errors.New("quota used up")
)

// association is one client's. Its scope runs the watch on the control
// connection (and on the upstreams'), one pump for each socket, and the
// look-ups of names; the first of them that fails ends all, and serve waits.
type association struct {
	r    *Relay
	s    Request
	o    RelayOptions
	seat ratelimit.Seat

	clientIP netip.Addr
	relay    *socket        // towards the client
	local    netip.AddrPort // relay's
	upstream *upstream      // the first client port's half of the way; nil: direct

	outer context.Context // Serve's
	ctx   context.Context // the scope's
	scope *task.Scope
	began time.Time

	routes    routes
	names     names
	flows     flows
	fragments reassembler

	bytes, datagrams [2]atomic.Int64
}

func newAssociation(r *Relay, s Request, o RelayOptions) *association {
	return &association{
		r: r, s: s, o: o, began: time.Now(),
		clientIP: netaddr.Plain(s.Client.Addr()),
		flows:    flows{tell: s.Flow, idle: int64(o.IdleTimeout)},
		seat:     ratelimit.SeatOf(s.Identity.User, s.Client.Addr()),
		routes:   newRoutes(), names: newNames(), fragments: reassembler{budget: &r.fragments, full: r.metrics.Limits.Of(metrics.LimitFragments)},
	}
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
	a.local = netaddr.PlainPort(bound)
	if !a.clientIP.IsValid() {
		a.clientIP = a.local.Addr()
	}
	return nil
}

// start makes the association's scope.
func (a *association) start(ctx context.Context) {
	a.outer = ctx
	a.scope, a.ctx = task.New(ctx, a.r.panics, "udp")
}

// serve replies, runs until the end, and cleans up.
func (a *association) serve() Result {
	bound := a.local
	if a.s.Advertise.IsValid() {
		bound = netip.AddrPortFrom(netaddr.Plain(a.s.Advertise), bound.Port())
	}
	_ = a.s.Control.SetReadDeadline(time.Time{}) // the handshake's
	err := a.s.Reply(wire.ReplySucceeded, bound)
	if err == nil {
		a.spawn("client pump", func() error { return a.relay.receive(a.ctx, a.r.pool, newInbound(a).handle) })
		a.spawn("control watch", a.watchControl)
		if a.upstream != nil {
			a.spawn("upstream watch", a.watchUpstream)
		}
		a.restPorts()
		err = context.Cause(a.ctx)
	}
	a.shut(err)
	return a.result(bound, err)
}

// spawn runs f as one of the association's goroutines: its error, or its
// panic, ends the association.
func (a *association) spawn(what string, f func() error) {
	a.scope.Go(func() (err error) {
		defer func() {
			if p := recover(); p != nil { // here, and not in the scope, for the log to say whose it was
				err = a.r.panics.Panicked(a.ctx, "udp", p, slog.String("id", a.s.ID), slog.String("task", what))
			}
		}()
		if err := f(); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

// shut ends all goroutines, then closes all sockets. Expired deadlines come
// first: closing a socket waits for its pump, which may itself wait to write
// to another. Control is left open, without a deadline.
func (a *association) shut(cause error) {
	a.scope.Cancel(cause)
	past := time.Unix(1, 0)
	_ = a.s.Control.SetReadDeadline(past)
	ports := a.routes.stop()
	sockets := []*socket{a.relay}
	for _, p := range ports {
		sockets = append(sockets, p.sockets()...)
		if p.upstream != nil {
			_ = p.upstream.control.Close()
		}
	}
	if a.upstream != nil {
		_ = a.upstream.control.Close()
	}
	for _, s := range sockets {
		_ = s.conn.SetDeadline(past)
	}
	_ = a.scope.Wait()
	for _, s := range sockets {
		s.close()
	}
	for _, p := range ports {
		a.giveBack(p, len(p.sockets()))
	}
	a.fragments.close()
	a.flows.end()
	_ = a.s.Control.SetReadDeadline(time.Time{})
}

// now is the time since the association began, in nanoseconds.
func (a *association) now() int64 { return int64(time.Since(a.began)) }

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
func discard(c io.Reader) error {
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
func (a *association) account(d Direction, t *tally, bytes int) {
	for i, n := range t {
		if n > 0 && outcome(i) != pending {
			a.r.counts[d][i].Add(n)
		}
	}
	if t[relayed] == 0 {
		return
	}
	a.datagrams[d].Add(int64(t[relayed]))
	a.bytes[d].Add(int64(bytes))
	if d == FromClient {
		a.r.metrics.Relay.BytesIn.Add(bytes)
	} else {
		a.r.metrics.Relay.BytesOut.Add(bytes)
	}
}

// metered asks the request's meter about one datagram.
func (a *association) metered(d Direction, n int) outcome {
	if a.s.Meter == nil {
		return relayed
	}
	switch a.s.Meter(d, n) {
	case MeterPass:
		return relayed
	case MeterEnd:
		a.scope.Cancel(errQuota)
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
	case errors.Is(err, errControl):
		res.Cause = cause.ClientClosed
	case errors.Is(err, errControlReset):
		res.Cause = cause.ClientReset
	case errors.Is(err, errUpstreamEnded):
		res.Cause = cause.ServerClosed
	case errors.Is(err, errQuota):
		res.Cause = cause.Quota
	case a.outer.Err() != nil:
		res.Cause = cause.Drained
	default:
		res.Cause = cause.Error
	}
	return res
}
