package udprelay

import (
	"log/slog"
	"net/netip"
	"sync"
	"time"
	"weak"

	"cleversocks/conn/wire"
)

const (
	// decisionLimit and sentLimit bound one generation of an association's
	// tables; there are two of each. They fill their maps exactly: with one
	// entry more these would be twice as large.
	decisionLimit = 224
	sentLimit     = 448
	// tableSpan ages them. A return path lives for one to two of it without a
	// datagram, no less than the 2 minutes of RFC 4787 §4.3.
	tableSpan = int64(2 * time.Minute)
)

// decisionKey is what a remembered decision is about.
type decisionKey struct {
	name uint32 // a name's id; 0: an address was asked for
	port uint16
	ip   [16]byte // zero: an upstream will find the address
}

// pathKey is a destination that a client's port has sent to, and that may
// answer there.
type pathKey struct {
	ip     [16]byte
	port   uint16 // 0: any of the host's (FilterAddress)
	number uint8  // the client port's
}

// path is how a destination was asked for. It does not keep the name, whose
// table has its own bound: a path whose name is forgotten is not judged again
// but closed when the rules change.
type path struct {
	name weak.Pointer[name]
	port uint16
	by   bool // by name
}

// routes is where an association's datagrams may go and come from.
type routes struct {
	mu         sync.Mutex
	generation uint64
	decisions  aging[decisionKey, bool]
	sent       aging[pathKey, path]
	ports      []*clientPort
	closed     bool
	opened     chan struct{} // 1: a socket was opened
}

func newRoutes() routes {
	return routes{
		decisions: newAging[decisionKey, bool](decisionLimit, tableSpan),
		sent:      newAging[pathKey, path](sentLimit, tableSpan),
		opened:    make(chan struct{}, 1),
	}
}

// stop lets no more sockets be opened and returns the ports, which hold those
// that are.
func (r *routes) stop() []*clientPort {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	return r.ports
}

// target is what a datagram's destination came to.
type target struct {
	what outcome // relayed: send it
	to   endpoint
	sock *socket
	dest wire.Addr // for an upstream's header

	name *name // nil: sent to an address
	port uint16
	// keep: a copy is kept until an answer shows that the address is alive.
	keep bool
	flow *flow // nil: nobody counts
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
	r.sent.deleteFunc(func(k pathKey, p path) bool {
		ip := netip.AddrFrom16(k.ip).Unmap()
		if !p.by {
			return !a.decide(wire.Addr{IP: ip, Port: p.port}, ip)
		}
		n := p.name.Value()
		return n == nil || !a.decide(n.at(p.port), ip)
	})
}

// decide asks the rules. A panic in them denies.
func (a *association) decide(dest wire.Addr, ip netip.Addr) (allow bool) {
	defer func() {
		if p := recover(); p != nil {
			_ = a.r.panics.Panicked(a.ctx, "decision", p, slog.String("id", a.s.ID)) // said, and an answer all the same
			allow = false
		}
	}()
	return a.s.Decide(dest, ip).Allow
}

// allowed is decide, remembered; n is nil when an address was asked for.
func (a *association) allowed(n *name, dest wire.Addr, ip netip.Addr, now int64) bool {
	key := decisionKey{port: dest.Port}
	if n != nil {
		key.name = n.id
	}
	if ip.IsValid() {
		key.ip = ip.As16()
	}
	r := &a.routes
	r.mu.Lock()
	defer r.mu.Unlock()
	allow, known := r.decisions.get(key, now)
	if !known {
		// Under the lock: a decision of the old rules must not be stored
		// after refresh has emptied the table.
		allow = a.decide(dest, ip) && !a.r.isOwn(netip.AddrPortFrom(ip, dest.Port))
		r.decisions.put(key, allow, now)
	}
	return allow
}

// route says where the datagrams of a client's port for a destination go,
// without waiting.
func (a *association) route(p *clientPort, raw wire.RawAddr, now int64) target {
	switch {
	case raw.Port == 0:
		return target{what: malformed}
	case a.upstream != nil:
		return a.routeUpstream(p, raw, now)
	case !raw.IP.IsValid():
		return a.routeName(p, raw, now)
	}
	ip := raw.IP.Unmap()
	return a.routeAddr(p, nil, wire.Addr{IP: ip, Port: raw.Port}, ip, now)
}

// routeAddr judges one address of a destination and opens the way back.
func (a *association) routeAddr(p *clientPort, n *name, dest wire.Addr, ip netip.Addr, now int64) target {
	if ip.IsUnspecified() || ip.IsMulticast() {
		// Linux takes the former for loopback: nobody means it, but for getting
		// around a rule about 127.0.0.1. Neither names a host, as in a CONNECT.
		return target{what: denied}
	}
	if !a.allowed(n, dest, ip, now) {
		return target{what: denied}
	}
	sock, what := a.socketFor(p, ip, now)
	if what != relayed {
		return target{what: what}
	}
	at := netip.AddrPortFrom(ip, dest.Port)
	way := path{port: dest.Port}
	if n != nil {
		way.name, way.by = n.self, true
	}
	a.routes.mu.Lock()
	a.routes.sent.put(a.pathKey(p, at), way, now)
	a.routes.mu.Unlock()
	return target{what: relayed, to: endpointOf(at), sock: sock, name: n, port: dest.Port, flow: a.flows.to(dest, at, now)}
}

// pathKey is what two sources share if the filter takes one for the other.
func (a *association) pathKey(p *clientPort, at netip.AddrPort) pathKey {
	k := pathKey{ip: at.Addr().As16(), port: at.Port(), number: p.number}
	if a.o.Filter == FilterAddress {
		k.port = 0
	}
	return k
}

// pathTo is the open return path from a destination.
func (a *association) pathTo(p *clientPort, at netip.AddrPort, now int64) (path, bool) {
	a.routes.mu.Lock()
	defer a.routes.mu.Unlock()
	return a.routes.sent.get(a.pathKey(p, at), now)
}

// returns says what becomes of the datagrams that come from outside for a
// port of the client's.
func (a *association) returns(p *clientPort, from netip.AddrPort, now int64) outcome {
	way, sent := a.pathTo(p, from, now)
	if sent && way.by {
		a.names.answered(way.name.Value(), from)
	}
	switch {
	case sent && a.o.Filter != FilterNone:
		return relayed
	case a.o.Filter != FilterNone:
		return filtered
	case !a.allowed(nil, wire.FromAddrPort(from), from.Addr(), now):
		return denied
	}
	return relayed
}
