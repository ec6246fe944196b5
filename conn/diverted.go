package conn

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"cleversocks/conn/cause"
	"cleversocks/conn/handshake"
	"cleversocks/conn/netaddr"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/listener/transparent"
	"cleversocks/metrics"
	"cleversocks/udprelay"
)

// unansweredFor is how long a flow lasts at most whose destination has answered
// no more than once: nearly all of them are a question and its answer. (So does
// the kernel's conntrack.)
const unansweredFor = 30 * time.Second

// diverted is what one client sends to one destination, and gets back. To the session
// it is a connection that nothing is read from.
type diverted struct {
	of  *Diversion
	key divertedKey
	in  chan []byte

	session *session
	out     *net.UDPConn   // towards the destination, or the upstream
	to      netip.AddrPort // where datagrams are sent
	via     net.Conn       // the upstream's control connection; nil: there is none
	back    *transparent.Flow
	moved   chan int // tells of an answer
	refused bool     // what else comes is dropped for a while
}

// begin makes a session of the flow.
func (fl *diverted) begin(s *session) {
	fl.session = s
	s.protocol = wire.Transparent
	s.request = wire.Request{Protocol: wire.Transparent, Command: wire.CommandUDPAssociate, Dest: wire.FromAddrPort(fl.key.dest)}
	fl.of.group.metrics.Conn.Active.Of(s.protocol.String()).Add(1)
}

// run is the flow from its decision to its end.
func (fl *diverted) run(g *Group) {
	s, h := fl.session, g.handler
	s.policy = h.policy.Load()
	terms, id := s.terms(nil)
	if !terms.Free {
		h.replies.handshakeFailed(s, handshake.ErrNoMethod, true)
		fl.refused = true
		return
	}
	s.identity = id
	if err := fl.open(h); err != nil {
		h.replies.requestFailed(s, err)
		fl.refused = true
		return
	}
	defer fl.close()
	h.divertedEnds.add(s.local)
	defer h.divertedEnds.remove(s.local)
	s.relaying.Store(true)
	h.replies.granted(s)
	g.revocable(s)
	fl.moved = make(chan int, 1)
	scope, ctx := task.New(s.ctx, h.panics, "udp")
	scope.Go(func() error { return fl.answers(h) })
	scope.Go(func() error { fl.hear(); return nil })
	if fl.via != nil {
		scope.Go(func() error { _, err := io.Copy(io.Discard, fl.via); return errors.Join(errUpstreamLeft, err) })
	}
	own, err := fl.pump(ctx, h)
	fl.close()
	if broken := scope.Wait(); err == nil && own == "" {
		err = broken
	}
	if s.ctx.Err() != nil {
		own = endCause(s.ctx)
	}
	if own == "" {
		own = cause.Error
	}
	h.replies.commandEnded(s, own, err)
}

// errUpstreamLeft is an upstream that has ended its association.
var errUpstreamLeft = errors.New("the upstream ended the association")

// open judges the flow and opens its sockets.
func (fl *diverted) open(h *Handler) (err error) {
	s, dest := fl.session, fl.key.dest
	if s.policy.UDP == nil || s.policy.UDP.Disabled() {
		return errCommand
	}
	if h.divertedEnds.own(fl.key.client) {
		return errLoop
	}
	if err := h.accounts.enter(s); err != nil {
		return err
	}
	if err := h.judge.command(s); err != nil {
		return err
	}
	via := s.associateVia() // which the decision is about, too
	d := h.judge.now(s, s.request.Dest, dest.Addr())
	if s.rule = d.Rule; !d.Allow {
		return &deniedError{rule: d.Rule, where: d.Where}
	}
	fl.to = dest
	defer func() {
		if err != nil {
			fl.close()
		}
	}()
	if via != nil {
		ctx, cancel := context.WithTimeout(s.ctx, s.policy.Timeouts.Connect)
		up, err := via(ctx)
		cancel()
		if err != nil {
			return err
		}
		fl.via, fl.to = up.Control, up.Relay
	}
	if fl.out, err = s.policy.Dialer.ListenUDP(s.ctx, network(fl.to), s.policy.Routes.RouteDatagrams(s.routeQuery(s.datagramsTo())).Egress.Or(s.egress()), netip.AddrPort{}); err != nil {
		return err
	}
	if fl.back, err = transparent.NewFlow(s.ctx, dest, fl.key.client); err != nil {
		return err
	}
	s.hostIP, s.local = dest, netaddr.Of(fl.out.LocalAddr())
	return nil
}

func network(to netip.AddrPort) string {
	if to.Addr().Is4() {
		return "udp4"
	}
	return "udp6"
}

// close closes what the flow has open. It may be called again.
func (fl *diverted) close() {
	if fl.out != nil {
		_ = fl.out.Close()
	}
	if fl.back != nil {
		_ = fl.back.Close()
	}
	if fl.via != nil {
		_ = fl.via.Close()
	}
}

// pump sends what the client sends until the flow's end, and says why that is,
// unless the context does.
func (fl *diverted) pump(ctx context.Context, h *Handler) (own string, err error) {
	s := fl.session
	lasting := s.policy.UDP.IdleTimeout()
	idle := min(lasting, unansweredFor)
	timer := time.NewTimer(idle)
	defer timer.Stop()
	count := h.metrics.UDP.Datagrams
	generation := s.policy.Generation
	for {
		select {
		case payload := <-fl.in:
			if now := h.policy.Load().Generation; now != generation {
				if d := h.judge.now(s, s.request.Dest, fl.key.dest.Addr()); !d.Allow {
					return "", &deniedError{rule: d.Rule, where: d.Where}
				}
				generation = now
			}
			switch s.countDatagram(udprelay.FromClient, len(payload)) {
			case udprelay.MeterEnd:
				return cause.Quota, errQuota
			case udprelay.MeterDrop:
				fl.of.drop(metrics.UDPLimited)
				continue
			case udprelay.MeterPass:
			}
			outcome := metrics.UDPRelayed
			if fl.send(payload) != nil {
				outcome = metrics.UDPError // lost, as on any way
			}
			count.Of("in", outcome).Inc()
		case n := <-fl.moved:
			if n > 1 {
				idle = lasting
			}
		case <-timer.C:
			return cause.Idle, nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		}
		timer.Reset(idle)
	}
}

// hear takes what the client sends, until the socket is closed. The first
// datagrams came by way of the listener, which may be a successor's by now.
func (fl *diverted) hear() {
	for {
		payload, err := fl.back.Receive()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err == nil:
			fl.take(payload)
		} // else an ICMP error, about one datagram
	}
}

// take queues a datagram of the client.
func (fl *diverted) take(payload []byte) {
	select {
	case fl.in <- payload:
	default:
		fl.of.drop(metrics.UDPOverload)
	}
}

// send sends a datagram to the destination, or to the upstream that relays it.
func (fl *diverted) send(payload []byte) error {
	if fl.via != nil {
		payload = append(wire.AppendUDPReplyHeader(make([]byte, 0, len(payload)+wire.MaxUDPReplyHeader), fl.key.dest), payload...)
	}
	_, err := fl.out.WriteToUDPAddrPort(payload, fl.to)
	return err
}

// answers passes on what the destination answers, until the socket is closed.
func (fl *diverted) answers(h *Handler) error {
	buf := make([]byte, 1<<16)
	count := h.metrics.UDP.Datagrams
	for n := 0; ; {
		size, from, err := fl.out.ReadFromUDPAddrPort(buf)
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case err != nil:
			continue // an ICMP error, about one datagram
		}
		payload, ok := fl.answer(buf[:size], netaddr.PlainPort(from))
		if !ok {
			count.Of("out", metrics.UDPFiltered).Inc()
			continue
		}
		switch fl.session.countDatagram(udprelay.ToClient, len(payload)) {
		case udprelay.MeterEnd:
			return errQuota
		case udprelay.MeterDrop:
			count.Of("out", metrics.UDPLimited).Inc()
			continue
		case udprelay.MeterPass:
		}
		outcome := metrics.UDPRelayed
		if fl.back.Send(payload) != nil {
			outcome = metrics.UDPError
		}
		count.Of("out", outcome).Inc()
		n++
		select {
		case fl.moved <- n:
		default:
		}
	}
}

// answer is what a datagram has for the client: it must be the destination's.
func (fl *diverted) answer(b []byte, from netip.AddrPort) (payload []byte, ok bool) {
	if from != fl.to {
		return nil, false
	}
	if fl.via == nil {
		return b, true
	}
	header, n, err := wire.ParseUDPHeader(b)
	if err != nil || header.Frag != 0 {
		return nil, false
	}
	dest, err := header.Dest.Addr()
	return b[n:], err == nil && dest.AddrPort() == fl.key.dest
}

// A flow as the session's connection: it ends by its context alone.

func (fl *diverted) Read([]byte) (int, error)    { return 0, io.EOF }
func (fl *diverted) Write(b []byte) (int, error) { return len(b), nil }
func (fl *diverted) Close() error                { return nil }
func (fl *diverted) LocalAddr() net.Addr         { return net.UDPAddrFromAddrPort(fl.key.dest) }

func (fl *diverted) RemoteAddr() net.Addr             { return net.UDPAddrFromAddrPort(fl.key.client) }
func (fl *diverted) SetDeadline(time.Time) error      { return nil }
func (fl *diverted) SetReadDeadline(time.Time) error  { return nil }
func (fl *diverted) SetWriteDeadline(time.Time) error { return nil }

var _ net.Conn = (*diverted)(nil)
