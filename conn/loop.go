package conn

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"cleversocks/conn/netaddr"
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
	ends map[netip.AddrPort]dialedSocket
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
	s.dialedFrom = netaddr.Of(s.server.LocalAddr())
	d.add(s.dialedFrom, s)
}

// removeServer forgets it.
func (d *dialedEnds) removeServer(s *session) { d.remove(s.dialedFrom, s) }

// add notes a socket by its local end.
func (d *dialedEnds) add(end netip.AddrPort, server dialedSocket) {
	if !end.IsValid() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ends == nil {
		d.ends = make(map[netip.AddrPort]dialedSocket)
	}
	d.ends[end] = server
}

// remove forgets it.
func (d *dialedEnds) remove(end netip.AddrPort, server dialedSocket) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ends[end] == server {
		delete(d.ends, end)
	}
}

// own reports whether a session's client is this daemon itself. An address and
// port alone do not prove that, since two sockets of one host may share them with
// different peers. The kernel's counts of bytes rule that out.
func (d *dialedEnds) own(s *session) bool {
	d.mu.Lock()
	server := d.ends[s.client]
	d.mu.Unlock()
	return server != nil && sameConnection(server, dialedConn{s.socket})
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
