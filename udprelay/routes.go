package udprelay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"cleversocks/conn/wire"
)

const (
	// decisionLimit and sentLimit bound one generation of an association's
	// tables; there are two of each.
	decisionLimit = 256
	sentLimit     = 512
	// tableSpan ages them. A return path lives for one to two of it without a
	// datagram, no less than the 2 minutes of RFC 4787 §4.3.
	tableSpan = int64(2 * time.Minute)
	// reopenAfter is the wait before a family's socket that could not be
	// opened is tried again.
	reopenAfter = int64(time.Second)
)

// decisionKey is what a remembered decision is about.
type decisionKey struct {
	name string // as requested; empty for an IP destination
	at   netip.AddrPort
}

// path is a destination that was sent to, and how it was asked for.
type path struct {
	dest wire.Addr
	ip   netip.Addr
}

// routes is where an association's datagrams may go and come from.
type routes struct {
	mu         sync.Mutex
	generation uint64
	decisions  aging[decisionKey, bool]
	sent       aging[netip.AddrPort, path] // by filter key
	egress     [2]egress                   // IPv4, IPv6
	closed     bool
}

// egress is the socket towards one family's destinations, opened when the
// first datagram needs it.
type egress struct {
	sock    *socket
	retryAt int64
}

func newRoutes() routes {
	return routes{
		decisions: newAging[decisionKey, bool](decisionLimit, tableSpan),
		sent:      newAging[netip.AddrPort, path](sentLimit, tableSpan),
	}
}

// stop lets no more sockets be opened and returns those that are.
func (r *routes) stop() []*socket {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	var open []*socket
	for _, e := range r.egress {
		if e.sock != nil {
			open = append(open, e.sock)
		}
	}
	return open
}

// target is what a datagram's destination came to.
type target struct {
	what outcome // relayed: send it
	to   endpoint
	sock *socket
	dest wire.Addr // for an upstream's header
}

// refresh drops remembered decisions when the rules have changed, and judges
// the open return paths again.
func (a *association) refresh() {
	if a.s.Generation == nil {
		return
	}
	generation := a.s.Generation()
	r := &a.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	if generation == r.generation {
		return
	}
	r.generation = generation
	r.decisions.clear()
	r.sent.deleteFunc(func(_ netip.AddrPort, p path) bool { return !a.decide(p.dest, p.ip) })
}

// decide asks the rules. A panic in them denies.
func (a *association) decide(dest wire.Addr, ip netip.Addr) (allow bool) {
	defer func() {
		if v := recover(); v != nil {
			a.r.metrics.Conn.Panics.Of("decision").Inc()
			a.r.log.Error("panic", "id", a.s.ID, "where", "decision", "value", fmt.Sprint(v), "stack", string(debug.Stack()))
			allow = false
		}
	}()
	return a.s.Decide(dest, ip).Allow
}

// allowed is decide, remembered.
func (a *association) allowed(dest wire.Addr, ip netip.Addr, now int64) bool {
	key := decisionKey{name: dest.Name, at: netip.AddrPortFrom(ip, dest.Port)}
	r := &a.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	allow, known := r.decisions.get(key, now)
	if !known {
		// Under the lock: a decision of the old rules must not be stored
		// after refresh has emptied the table.
		allow = a.decide(dest, ip) && !a.r.isOwn(key.at)
		r.decisions.put(key, allow, now)
	}
	return allow
}

// route says where the datagrams for a destination go, without waiting.
func (a *association) route(raw wire.RawAddr, now int64) target {
	switch {
	case raw.Port == 0:
		return target{what: malformed}
	case a.upstream != nil:
		return a.routeUpstream(raw, now)
	case !raw.IP.IsValid():
		return a.routeName(raw, now)
	}
	ip := raw.IP.Unmap()
	return a.routeAddr(wire.Addr{IP: ip, Port: raw.Port}, ip, now)
}

// routeAddr judges one address of a destination and opens the way back.
func (a *association) routeAddr(dest wire.Addr, ip netip.Addr, now int64) target {
	if ip.IsUnspecified() || ip.IsMulticast() {
		// Linux takes the former for loopback: nobody means it, but for getting
		// around a rule about 127.0.0.1. Neither names a host, as in a CONNECT.
		return target{what: denied}
	}
	if !a.allowed(dest, ip, now) {
		return target{what: denied}
	}
	sock, err := a.socketFor(ip, now)
	if err != nil {
		return target{what: failed}
	}
	at := netip.AddrPortFrom(ip, dest.Port)
	a.routes.mu.Lock()
	a.routes.sent.put(a.filterKey(at), path{dest: dest, ip: ip}, now)
	a.routes.mu.Unlock()
	return target{what: relayed, to: endpointOf(at), sock: sock}
}

// filterKey is what two addresses share if the filter takes one for the other.
func (a *association) filterKey(at netip.AddrPort) netip.AddrPort {
	if a.o.Filter == FilterAddress {
		return netip.AddrPortFrom(at.Addr(), 0)
	}
	return at
}

// admits reports whether a datagram from outside may go to the client.
func (a *association) admits(from netip.AddrPort, now int64) outcome {
	if a.o.Filter == FilterNone {
		if !a.allowed(wire.FromAddrPort(from), from.Addr(), now) {
			return denied
		}
		return relayed
	}
	a.routes.mu.Lock()
	defer a.routes.mu.Unlock()
	if _, ok := a.routes.sent.get(a.filterKey(from), now); !ok {
		return filtered
	}
	return relayed
}

var errNoSocket = errors.New("no socket of this family")

// socketFor is the socket towards ip's family; its first use opens it and
// starts its pump.
func (a *association) socketFor(ip netip.Addr, now int64) (*socket, error) {
	family, network := 0, "udp4"
	if ip.Is6() {
		family, network = 1, "udp6"
	}
	r := &a.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	e := &r.egress[family]
	switch {
	case e.sock != nil:
		return e.sock, nil
	case r.closed || now < e.retryAt:
		return nil, errNoSocket
	}
	e.retryAt = now + reopenAfter
	conn, err := a.listenEgress(network)
	if err != nil {
		a.r.log.Debug("no egress socket", "id", a.s.ID, "network", network, "error", err)
		return nil, err
	}
	sock, err := newSocket(conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	e.sock = sock
	a.spawn("udp "+network+" pump", func() error { return sock.receive(a.ctx, a.r.pool, newOutbound(a).handle) })
	return sock, nil
}

func (a *association) listenEgress(network string) (*net.UDPConn, error) {
	if a.s.Listen != nil {
		return a.s.Listen(a.ctx, network)
	}
	return listenAny(a.ctx, network)
}

func listenAny(ctx context.Context, network string) (*net.UDPConn, error) {
	var lc net.ListenConfig
	pc, err := lc.ListenPacket(ctx, network, ":0")
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}
