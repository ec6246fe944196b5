package conn

import (
	"net"
	"net/netip"

	"cleversocks/conn/netaddr"
	"cleversocks/conn/upstream"
	"cleversocks/conn/wire"
)

// origin is whose connection the session passes on, as PROXY headers tell it:
// the client, and where that connected to. A client that a packet filter turned
// here connected to its destination.
func (s *session) origin() upstream.Origin {
	local := s.atDoor().reachedAt
	switch {
	case s.protocol == wire.Transparent && !s.request.Dest.IsName():
		local = s.request.Dest.AddrPort()
	case !local.IsValid():
		local = s.hereAt()
	}
	return upstream.Origin{Client: s.client, Local: local}
}

// here is the address of this host that the client knows: the one that it
// connected to. A load balancer on this host may take connections on an address
// of its own and bring them over loopback; one on another host has an address
// that nothing here can be bound to, and then it is the socket's own.
func (s *session) here() netip.Addr {
	if at := s.atDoor().reachedAt.Addr(); at.IsValid() && isLocal(at) {
		return at
	}
	return s.hereAt().Addr()
}

// hereAt is the address and port of ours that the session's socket has.
func (s *session) hereAt() netip.AddrPort {
	if s.socket == nil {
		return s.raw.client.local()
	}
	return netaddr.Of(s.socket.LocalAddr())
}

// isLocal reports whether an address is this host's, by the one question that
// the kernel answers for ranges routed here, too.
func isLocal(at netip.Addr) bool {
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(at, 0)))
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// forCommand is the session's connection as the commands know it that open
// something for others to come to: at the address that the client knows.
func (s *session) forCommand() net.Conn {
	if !s.atDoor().reachedAt.IsValid() {
		return s.conn
	}
	return reached{Conn: s.conn, at: &net.TCPAddr{IP: s.here().AsSlice(), Port: int(s.atDoor().reachedAt.Port())}}
}

// reached is a connection whose client connected to another address of this host.
type reached struct {
	net.Conn
	at *net.TCPAddr
}

// LocalAddr is that address.
func (r reached) LocalAddr() net.Addr { return r.at }
