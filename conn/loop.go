package conn

import (
	"errors"
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
	ends map[netip.AddrPort]net.Conn
}

// add notes a connection to a destination, or to the first hop.
func (d *dialedEnds) add(server net.Conn) {
	end := addrPort(server.LocalAddr())
	if !end.IsValid() {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ends == nil {
		d.ends = make(map[netip.AddrPort]net.Conn)
	}
	d.ends[end] = server
}

// remove forgets it.
func (d *dialedEnds) remove(server net.Conn) {
	if server == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if end := addrPort(server.LocalAddr()); d.ends[end] == server {
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
	return server != nil && sameConnection(server, s.socket)
}

// refuse refuses a request that this daemon makes of itself.
func (d *dialedEnds) refuse(s *session) error {
	if !d.own(s) {
		return nil
	}
	return errLoop
}
