package udprelay

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"cleversocks/conn/wire"
)

const (
	// knownNames, lookups, waiting and waitingBytes bound what one
	// association keeps about names and for them.
	knownNames   = 256
	lookups      = 8
	waiting      = 64
	waitingBytes = 256 << 10
	// addressesKept is how many addresses of a name are considered.
	addressesKept = 16
	// nameTTL is short: the resolver has the real cache, this one spares its
	// look-up per datagram and keeps a flow on one address.
	nameTTL     = 30 * time.Second
	failedTTL   = 2 * time.Second
	lookupLimit = 15 * time.Second
)

// names is what an association knows of the names that its client sends to.
type names struct {
	mu     sync.Mutex
	known  map[string]*name // by the bytes as sent
	queues map[string]*queue
	count  int // datagrams in all queues
	bytes  int
}

// name is what a name came to.
type name struct {
	addr    wire.Addr // normalised, without port; has an IP when the name was a literal
	ips     []netip.Addr
	expires int64
}

// queue is the datagrams that wait for one name.
type queue struct {
	addr      wire.Addr
	datagrams []waitingDatagram
}

type waitingDatagram struct {
	port    uint16
	payload []byte
}

func newNames() names {
	return names{known: make(map[string]*name), queues: make(map[string]*queue)}
}

// get is what is known of a name; nil: nothing, or no longer.
func (n *names) get(raw []byte, now int64) *name {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.known[string(raw)] // allocates nothing
	if e == nil || now >= e.expires {
		return nil
	}
	return e
}

// put remembers a name. The caller holds mu.
func (n *names) put(raw string, e *name) {
	if len(n.known) >= knownNames {
		clear(n.known)
	}
	n.known[raw] = e
}

// normal is a name's normal form, remembered, for upstreams that resolve.
func (n *names) normal(raw []byte) (wire.Addr, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.known[string(raw)]
	if e == nil {
		addr, err := wire.RawAddr{Name: raw}.Addr()
		if err != nil {
			return wire.Addr{}, false
		}
		e = &name{addr: addr}
		n.put(string(raw), e)
	}
	return e.addr, true
}

// routeName is route for a name: pending when it must be looked up first.
func (a *association) routeName(raw wire.RawAddr, now int64) target {
	e := a.names.get(raw.Name, now)
	if e == nil {
		return target{what: pending}
	}
	return a.routeKnown(e, raw.Port, now)
}

// routeKnown takes the first address of a name that the rules allow.
func (a *association) routeKnown(e *name, port uint16, now int64) target {
	if e.addr.IP.IsValid() {
		return a.routeAddr(wire.Addr{IP: e.addr.IP, Port: port}, e.addr.IP, now)
	}
	t := target{what: unresolved}
	for _, ip := range e.ips {
		t = a.routeAddr(wire.Addr{Name: e.addr.Name, Port: port}, ip, now)
		if t.what == relayed {
			break
		}
	}
	return t
}

// enqueue keeps a datagram until its name is known, and starts the look-up.
// What it returns is to be counted; pending is not.
func (a *association) enqueue(raw wire.RawAddr, payload []byte) outcome {
	n := &a.names
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.count >= waiting || n.bytes+len(payload) > waitingBytes {
		return overload
	}
	key := string(raw.Name)
	q := n.queues[key]
	if q == nil {
		addr, err := wire.RawAddr{Name: raw.Name}.Addr()
		switch {
		case err != nil:
			return malformed
		case len(n.queues) >= lookups:
			return overload
		}
		q = &queue{addr: addr}
		n.queues[key] = q
		a.spawn("udp look-up", func() error { a.lookup(key, addr); return nil })
	}
	q.datagrams = append(q.datagrams, waitingDatagram{port: raw.Port, payload: bytes.Clone(payload)})
	n.count++
	n.bytes += len(payload)
	return pending
}

// lookup resolves a name and sends what waits for it.
func (a *association) lookup(key string, addr wire.Addr) {
	e := &name{addr: addr}
	ttl := nameTTL
	if addr.IsName() {
		if e.addr, e.ips = a.resolve(addr); len(e.ips) == 0 {
			ttl = failedTTL
		}
	}
	n := &a.names
	n.mu.Lock()
	e.expires = a.now() + int64(ttl)
	n.put(key, e)
	q := n.queues[key]
	delete(n.queues, key)
	for _, d := range q.datagrams {
		n.count--
		n.bytes -= len(d.payload)
	}
	n.mu.Unlock()
	for _, d := range q.datagrams {
		if a.ctx.Err() != nil {
			return
		}
		a.deliver(a.routeKnown(e, d.port, a.now()), d.payload)
	}
}

// resolve is the session's resolver within bounds: the name that answers, which
// is the one that the rules judge, and its addresses, those that this host has
// a route to in front.
func (a *association) resolve(asked wire.Addr) (dest wire.Addr, ips []netip.Addr) {
	ctx, cancel := context.WithTimeout(a.ctx, lookupLimit)
	defer cancel()
	dest, err := asked, error(nil)
	if a.s.Complete != nil {
		dest, err = a.s.Complete(ctx, asked)
	}
	if err == nil {
		ips, err = a.s.Resolve(ctx, dest)
	}
	if err != nil {
		a.r.log.Debug("datagram's name not resolved", "id", a.s.ID, "name", asked.Name, "error", err)
		return asked, nil
	}
	ips = ips[:min(len(ips), addressesKept)]
	var near, far []netip.Addr
	for _, ip := range ips {
		ip = ip.Unmap()
		if len(ips) == 1 || routable(ctx, ip) {
			near = append(near, ip)
		} else {
			far = append(far, ip)
		}
	}
	return dest, append(near, far...)
}

// routable asks the kernel for a route, by a connected socket that sends
// nothing: there is no Happy Eyeballs for datagrams, and a name's IPv6
// addresses are no use on a host without IPv6.
func routable(ctx context.Context, ip netip.Addr) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", netip.AddrPortFrom(ip, 9).String())
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
