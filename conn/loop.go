package conn

import (
	"errors"
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
)

// errLoop is a connection of this daemon's that came back to it: by a packet
// filter, a port forward or a proxy behind it. Each round of such a loop would
// take two descriptors, without an end.
var errLoop = errors.New("the connection is this daemon's own, which came back to it: what turns it around, a packet filter, a port forward or an upstream, must let it pass")

// dialedEnds holds the local ends of what this daemon has dialed for clients.
// A client whose address and port are one of them is a loop: that marks the
// connection at no cost on the wire. The zero value is ready.
type dialedEnds struct {
	mu   sync.Mutex
	seed maphash.Seed
	// ends are by the hash of their address, which would be most of an entry's
	// memory. That two of them are one happens to nobody, and would hide one loop.
	ends map[uint64]dialedSocket
}

// dialedSocket is a socket that was dialed: that of a conn, or of a session,
// where the relay may have taken it over. Its dynamic types are comparable.
type dialedSocket interface {
	// control runs f with the descriptor. It fails when there is none, or no
	// more.
	control(f func(fd uintptr)) error
}

// dialedConn is the socket of a conn.
type dialedConn struct{ net.Conn }

func (c dialedConn) control(f func(fd uintptr)) error {
	socket := socketOf(c.Conn)
	if socket == nil {
		return net.ErrClosed
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(f)
}

// addServer notes a session's connection to its destination, or to the first
// hop.
func (d *dialedEnds) addServer(s *session) {
	d.add(s.local, s)
}

// removeServer forgets it.
func (d *dialedEnds) removeServer(s *session) { d.remove(s.local, s) }

// add notes a socket by its local end.
func (d *dialedEnds) add(end netip.AddrPort, server dialedSocket) {
	if !end.IsValid() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ends == nil {
		d.seed, d.ends = maphash.MakeSeed(), make(map[uint64]dialedSocket)
	}
	d.ends[maphash.Comparable(d.seed, end)] = server
}

// at is the socket with a local end; nil: there is none.
func (d *dialedEnds) at(end netip.AddrPort) dialedSocket {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ends == nil {
		return nil
	}
	return d.ends[maphash.Comparable(d.seed, end)]
}

// remove forgets it.
func (d *dialedEnds) remove(end netip.AddrPort, server dialedSocket) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ends == nil {
		return
	}
	if key := maphash.Comparable(d.seed, end); d.ends[key] == server {
		delete(d.ends, key)
	}
}

// own reports whether a session's client is this daemon itself. An address and
// port alone do not prove that, since two sockets of one host may share them with
// different peers. The kernel's counts of bytes rule that out.
func (d *dialedEnds) own(s *session) bool {
	server := d.at(s.client)
	return server != nil && sameConnection(server, s.accepted())
}

// accepted is the session's client as a socket.
func (s *session) accepted() dialedSocket {
	if s.socket == nil {
		return s.raw.client
	}
	return dialedConn{s.socket}
}

// refuse refuses a request that this daemon makes of itself.
func (d *dialedEnds) refuse(s *session) error {
	if !d.own(s) {
		return nil
	}
	return errLoop
}

// divertedEnds are the ports that datagrams of flows leave from. A client that comes
// from one of this host's addresses and one of them is a loop. The zero value is
// ready.
type divertedEnds struct {
	mu    sync.Mutex
	ports map[uint16]int
}

func (e *divertedEnds) add(end netip.AddrPort) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ports == nil {
		e.ports = make(map[uint16]int)
	}
	e.ports[end.Port()]++
}

func (e *divertedEnds) remove(end netip.AddrPort) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ports[end.Port()]--; e.ports[end.Port()] <= 0 {
		delete(e.ports, end.Port())
	}
}

// own reports whether a client's datagrams are this daemon's.
func (e *divertedEnds) own(client netip.AddrPort) bool {
	e.mu.Lock()
	n := e.ports[client.Port()]
	e.mu.Unlock()
	return n > 0 && isLocal(client.Addr())
}
