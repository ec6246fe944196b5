package udprelay

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"cleversocks/conn/netaddr"
)

const (
	// clientPorts bounds the ports of one client that an association serves.
	clientPorts = 64
	// yieldAfter is how long a port must have been silent before another one
	// takes its place, where all places are taken.
	yieldAfter = int64(10 * time.Second)
	// rebindAfter is how long the only port must be silent before another
	// port of its address takes over, which is what a NAT that forgot its
	// mapping looks like (RelayOptions.FirstPortOnly). Until then the port
	// that spoke first is the client, and its neighbours on the same address
	// can neither send in its name nor draw its replies to themselves.
	rebindAfter = int64(30 * time.Second)
	// reopenAfter is the wait before a family's socket that could not be
	// opened is tried again.
	reopenAfter = int64(time.Second)
)

// clientPort is one of the client's source ports, and what RFC 4787 §4.1 calls
// its mapping: sockets of its own towards destinations, so that each of a
// game's or a call's ports gets its own answers, even from one server.
type clientPort struct {
	// number tells the return paths of the association's ports apart.
	number uint8
	at     atomic.Pointer[endpoint] // where replies go
	heard  atomic.Int64             // when it last sent something valid
	moved  atomic.Int64             // when a datagram last was relayed, either way

	// The rest is under routes.mu.
	egress   [2]egress // IPv4, IPv6
	upstream *upstream // of this port, not of the first one; nil: none yet
	retryAt  int64     // when a failed upstream is tried again
}

// egress is the socket towards one family's destinations, opened when the
// first datagram needs it.
type egress struct {
	sock    *socket
	last    netip.AddrPort // where it was bound, to be so again
	retryAt int64
}

// sockets are those that are open. The caller holds routes.mu, or is the last.
func (p *clientPort) sockets() []*socket {
	var open []*socket
	for i := range p.egress {
		if s := p.egress[i].sock; s != nil {
			open = append(open, s)
		}
	}
	return open
}

// isFirst reports a port whose sockets are always granted.
func (p *clientPort) isFirst() bool { return p.number == 0 }

// portOf is the client's port that a datagram came from; nil when it may not
// send, or when there is no place for it. Only the client pump calls it.
func (a *association) portOf(from *endpoint, now int64) (*clientPort, outcome) {
	r := &a.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.ports {
		if *p.at.Load() == *from {
			return p, relayed
		}
	}
	switch {
	case len(r.ports) == 0 || !a.o.FirstPortOnly && len(r.ports) < clientPorts:
		p := &clientPort{number: uint8(len(r.ports))}
		at := *from
		p.at.Store(&at)
		r.ports = append(r.ports, p)
		return p, relayed
	case a.o.FirstPortOnly:
		p := r.ports[0]
		if now-p.heard.Load() < rebindAfter {
			return nil, wrongClient
		}
		at := *from
		p.at.Store(&at)
		return p, relayed
	}
	return a.takeOver(from, now)
}

// takeOver gives a new port the place of the one that has been silent longest.
// The caller holds routes.mu.
func (a *association) takeOver(from *endpoint, now int64) (*clientPort, outcome) {
	r := &a.routes
	var quiet *clientPort
	for _, p := range r.ports[1:] { // the first keeps its place: its sockets are not counted
		if quiet == nil || p.moved.Load() < quiet.moved.Load() {
			quiet = p
		}
	}
	if now-max(quiet.moved.Load(), quiet.heard.Load()) < yieldAfter {
		return nil, overload
	}
	p := &clientPort{number: quiet.number}
	at := *from
	p.at.Store(&at)
	r.ports[p.number] = p
	r.sent.deleteFunc(func(k pathKey, _ path) bool { return k.number == p.number })
	a.letGo(quiet)
	return p, relayed
}

// letGo closes what a port holds, on a goroutine: closing a socket waits for
// its pump, which may want routes.mu, which the caller holds.
func (a *association) letGo(p *clientPort) {
	open := p.sockets()
	for i := range p.egress {
		p.egress[i] = egress{last: p.egress[i].last}
	}
	half := p.upstream
	p.upstream = nil
	if len(open) == 0 && half == nil {
		return
	}
	a.spawn("closing idle sockets", func() error {
		if half != nil {
			_ = half.control.Close()
		}
		for _, s := range open {
			s.close()
		}
		a.giveBack(p, len(open))
		return nil
	})
}

// giveBack returns what socketFor has taken of the server's extra sockets.
func (a *association) giveBack(p *clientPort, sockets int) {
	if !p.isFirst() {
		a.r.extra.Add(-int64(sockets))
	}
}

// restPorts runs until the association's scope ends. A port for which nothing
// has moved for the idle timeout gives its sockets back, as a NAT's mapping
// ages (RFC 4787 §4.3); the next datagram opens them again, at the same local
// port if that is still free. The association goes on: it ends with its
// control connection alone.
//
// It looks at time stamps that pumps leave, so that a datagram costs no timer,
// and runs no timer while no socket is open.
func (a *association) restPorts() {
	timer := time.NewTimer(a.o.IdleTimeout)
	defer timer.Stop()
	for {
		select {
		case <-a.ctx.Done():
			return
		case <-a.routes.opened:
			timer.Reset(a.o.IdleTimeout)
		case <-timer.C:
			a.flows.rested(a.now())
			if left := a.restNow(a.now()); left > 0 {
				timer.Reset(left)
			}
		}
	}
}

// restNow lets go what is idle, and says when to look again; 0: when the next
// socket has been opened.
func (a *association) restNow(now int64) (left time.Duration) {
	r := &a.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.ports {
		if len(p.sockets()) == 0 && p.upstream == nil || a.upstream != nil && p.isFirst() {
			continue // nothing to let go, or what the upstream's control connection is for
		}
		idle := time.Duration(now - max(p.moved.Load(), p.heard.Load()))
		if idle >= a.o.IdleTimeout {
			a.letGo(p)
			continue
		}
		if wait := a.o.IdleTimeout - idle; left == 0 || wait < left {
			left = wait
		}
	}
	return left
}

// socketFor is a port's socket towards ip's family; its first use opens it and
// starts its pump.
func (a *association) socketFor(p *clientPort, ip netip.Addr, now int64) (*socket, outcome) {
	family, network := 0, "udp4"
	if ip.Is6() {
		family, network = 1, "udp6"
	}
	r := &a.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	e := &p.egress[family]
	switch {
	case e.sock != nil:
		return e.sock, relayed
	case r.closed || now < e.retryAt:
		return nil, failed
	}
	if !p.isFirst() && !a.r.takeExtra(a.o.MaxExtraSockets) {
		return nil, overload
	}
	e.retryAt = now + reopenAfter
	sock, err := a.openEgress(network, e.last)
	if err != nil {
		a.giveBack(p, 1)
		a.r.log.Debug("no egress socket", "id", a.s.ID, "network", network, "err", err)
		return nil, failed
	}
	e.sock, e.retryAt = sock, 0
	e.last = netaddr.Of(sock.conn.LocalAddr())
	if a.upstream == nil {
		sock.reportErrors(family, func(at netip.AddrPort) { a.unreachable(p, at) })
	}
	a.spawn(network+" pump", func() error { return sock.receive(a.ctx, a.r.pool, newOutbound(a, p).handle) })
	select {
	case r.opened <- struct{}{}:
	default: // restPorts knows already that there is something to look at
	}
	return sock, relayed
}

func (a *association) openEgress(network string, last netip.AddrPort) (*socket, error) {
	listen := a.s.Listen
	if listen == nil {
		listen = listenAny
	}
	conn, err := listen(a.ctx, network, last)
	if err != nil {
		return nil, err
	}
	sock, err := newSocket(conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return sock, nil
}

// listenAny opens a socket where the last one was, or anywhere.
func listenAny(ctx context.Context, network string, last netip.AddrPort) (*net.UDPConn, error) {
	var lc net.ListenConfig
	if last.IsValid() {
		if pc, err := lc.ListenPacket(ctx, network, last.String()); err == nil {
			return pc.(*net.UDPConn), nil
		}
	}
	pc, err := lc.ListenPacket(ctx, network, ":0")
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}
