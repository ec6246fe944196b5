package udprelay

import (
	"net/netip"
	"sync"
	"time"
	"weak"

	"cleversocks/conn/wire"
)

const (
	// nameMemory bounds what one generation of the known names takes, in
	// bytes; there are two.
	nameMemory = 22 << 10
	// nameOverhead is what a name takes besides its own bytes and addresses.
	nameOverhead = 240
	// addressesKept is how many addresses of a name are considered.
	addressesKept = 8
	// namePorts is for how many of a name's ports it is remembered which
	// address answers.
	namePorts = 8
	// failedTTL is how long a name without an address is not asked for again.
	failedTTL = 2 * time.Second
	// keptDatagrams and keptBytes bound the copies of datagrams that may have
	// to be sent again, to a name's next address.
	keptDatagrams = 4
	keptBytes     = 2 << 10
)

// names is what an association knows of the names that its client sends to. A
// name is known, with the address that it has here, for as long as the client
// sends to it: another server of a turning set knows nothing of the flow.
type names struct {
	mu     sync.Mutex
	known  aging[string, *name] // by the bytes as sent
	lastID uint32
	kept   [keptDatagrams]keptDatagram
	oldest int // of kept

	queues map[waitKey]*queue
	count  int // datagrams in all queues
	bytes  int
}

// name is what a name came to. Its fields stay as they are made, but for those
// under names.mu.
type name struct {
	id   uint32
	raw  string             // as sent
	addr wire.Addr          // without port: the name that answered, or an address in a name's place
	ips  []netip.Addr       // in the order to try them
	self weak.Pointer[name] // of this one, made once

	expires int64 // when to ask again, for one without an address; 0: not
	denied  bool  // by the rules: that is why it has none
	// Under names.mu.
	preferred uint8 // of ips: where ports start that were not sent to yet
	ports     []namePort
}

// namePort is which address of a name a port is served at.
type namePort struct {
	port     uint16
	address  uint8 // of ips
	failed   uint8 // addresses in a row from which ICMP said that nobody is there
	answered bool  // by this address
}

// keptDatagram is a copy of the last datagram to a name's port from which
// nothing has come back yet.
type keptDatagram struct {
	name    *name
	port    uint16
	from    *clientPort
	payload []byte
}

func newNames() names {
	known := newAging[string, *name](nameMemory, tableSpan)
	known.cost = func(_ string, e *name) int {
		return nameOverhead + len(e.raw) + len(e.addr.Name) + 24*len(e.ips)
	}
	return names{known: known, queues: make(map[waitKey]*queue)}
}

// at is the destination that the rules judge.
func (e *name) at(port uint16) wire.Addr {
	dest := e.addr
	dest.Port = port
	return dest
}

// find is what is known of a name; nil: nothing. The caller holds mu.
func (n *names) find(raw []byte, now int64) *name {
	n.known.age(now)
	e := n.known.young[string(raw)] // allocates nothing, unlike a key that is passed on
	if e == nil {
		if e = n.known.old[string(raw)]; e != nil {
			n.known.put(e.raw, e, now)
		}
	}
	return e
}

// get is what is known of a name and holds still; nil: it must be looked up.
func (n *names) get(raw []byte, now int64) *name {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.find(raw, now)
	if e == nil || e.expires != 0 && now >= e.expires {
		return nil
	}
	return e
}

// put remembers a name. The caller holds mu.
func (n *names) put(e *name, now int64) {
	n.lastID++
	e.id = n.lastID
	e.self = weak.Make(e)
	n.known.put(e.raw, e, now)
}

// normal is a name in its normal form, remembered, for upstreams that resolve.
func (n *names) normal(raw []byte, now int64) *name {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.find(raw, now)
	if e == nil {
		addr, err := wire.RawAddr{Name: raw}.Addr()
		if err != nil {
			return nil
		}
		e = &name{raw: string(raw), addr: addr}
		n.put(e, now)
	}
	return e
}

// portState is what is known of a name's port; a new one starts at the address
// that served the name before. The caller holds mu.
func (n *names) portState(e *name, port uint16) *namePort {
	for i := range e.ports {
		if e.ports[i].port == port {
			return &e.ports[i]
		}
	}
	fresh := namePort{port: port, address: e.preferred}
	if len(e.ports) == namePorts {
		copy(e.ports, e.ports[1:])
		e.ports = e.ports[:namePorts-1]
	}
	e.ports = append(e.ports, fresh)
	return &e.ports[len(e.ports)-1]
}

// choice is the address of a name to send to, as an index, and whether it has
// answered.
func (n *names) choice(e *name, port uint16) (first int, answered bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.portState(e, port)
	return int(s.address), s.answered
}

// choose notes that another address was taken, by the rules.
func (n *names) choose(e *name, port uint16, address int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.portState(e, port)
	s.address, s.answered = uint8(address), false
}

// answered notes that something came from a name's address: what works is
// kept, and new ports begin there. e may be nil.
func (n *names) answered(e *name, from netip.AddrPort) {
	if e == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range e.ports {
		s := &e.ports[i]
		if s.port != from.Port() || s.answered || e.ips[s.address] != from.Addr() {
			continue
		}
		s.answered, s.failed = true, 0
		e.preferred = s.address
		n.forgetKept(e, s.port)
	}
}

// keep copies a datagram that may have to be sent again.
func (n *names) keep(e *name, port uint16, from *clientPort, payload []byte) {
	if len(payload) > keptBytes {
		return // its client will know to send it again
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	slot := n.oldest
	for i, k := range n.kept {
		if k.name == e && k.port == port {
			slot = i
		}
	}
	if slot == n.oldest {
		n.oldest = (n.oldest + 1) % keptDatagrams
	}
	k := &n.kept[slot]
	k.name, k.port, k.from = e, port, from
	k.payload = append(k.payload[:0], payload...)
}

// forgetKept drops a port's copy, and says what it was. The caller holds mu.
func (n *names) forgetKept(e *name, port uint16) (payload []byte, from *clientPort) {
	for i := range n.kept {
		if k := &n.kept[i]; k.name == e && k.port == port {
			payload, from = k.payload, k.from
			*k = keptDatagram{}
		}
	}
	return payload, from
}

// moveOn leaves the address of a name from which ICMP says that nobody is
// there at a port. It returns the datagram that is to be sent to the next one,
// if there is a copy and a next one. When all have failed in turn the name is
// forgotten: the next datagram has it looked up anew.
func (n *names) moveOn(e *name, gone netip.AddrPort) (payload []byte, from *clientPort) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.portState(e, gone.Port())
	if e.ips[s.address] != gone.Addr() {
		return nil, nil // an earlier datagram's: that address is left already
	}
	s.answered = false
	s.failed++
	payload, from = n.forgetKept(e, s.port)
	if int(s.failed) >= len(e.ips) {
		n.known.delete(e.raw)
		return nil, nil
	}
	s.address = uint8((int(s.address) + 1) % len(e.ips))
	return payload, from
}

// routeName is route for a name: pending when it must be looked up first.
func (a *association) routeName(p *clientPort, raw wire.RawAddr, now int64) target {
	e := a.names.get(raw.Name, now)
	if e == nil {
		return target{what: pending}
	}
	return a.routeKnown(p, e, raw.Port, now)
}

// routeKnown takes the address of a name that serves the port, or the next one
// that the rules allow.
func (a *association) routeKnown(p *clientPort, e *name, port uint16, now int64) target {
	if e.addr.IP.IsValid() {
		return a.routeAddr(p, nil, e.at(port), e.addr.IP, now)
	}
	t := target{what: unresolved}
	if e.denied {
		t.what = denied
	}
	if len(e.ips) == 0 {
		return t
	}
	first, answered := a.names.choice(e, port)
	for i := range e.ips {
		address := (first + i) % len(e.ips)
		t = a.routeAddr(p, e, e.at(port), e.ips[address], now)
		if t.what != relayed {
			continue
		}
		if i > 0 {
			a.names.choose(e, port, address)
		}
		t.keep = len(e.ips) > 1 && !answered
		return t
	}
	return t
}

// unreachable hears of ICMP's word that nobody takes datagrams at an address
// that p sent to. If a name led there its next address is tried, as Happy
// Eyeballs would for a connection.
func (a *association) unreachable(p *clientPort, at netip.AddrPort) {
	now := a.now()
	way, ok := a.pathTo(p, at, now)
	if !ok || !way.by {
		return
	}
	e := way.name.Value()
	if e == nil {
		return
	}
	payload, from := a.names.moveOn(e, at)
	if from == nil {
		return
	}
	t := a.routeKnown(from, e, at.Port(), now)
	if t.what != relayed {
		return // it was counted when it was sent first
	}
	if t.keep {
		a.names.keep(e, t.port, from, payload)
	}
	_ = t.sock.sendOne(&t.to, nil, payload)
}
