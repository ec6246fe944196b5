package dial

import (
	"cmp"
	"context"
	crand "crypto/rand"
	"math/rand/v2"
	"net"
	"net/netip"
	"syscall"
	"time"

	"cleversocks/resolver"
)

// Egress says where connections leave this host.
type Egress struct {
	// Addresses are the source addresses: a single address is taken as it
	// is, of a prefix each connection takes a random address, and of several
	// that fit the destination's family a random one. When any is given, a
	// family without one is not dialed: a user who is held to an address
	// must not leave by another.
	Addresses []netip.Prefix
	// Interface is bound to (SO_BINDTODEVICE) when not empty.
	Interface string
	// Mark is the SO_MARK of the sockets, for policy routing; 0: none.
	Mark uint32
	// Session chooses among Addresses in the place of chance, by Weight: the
	// same one each time, on every replica. "": chance does.
	Session string
}

// IsZero says that nothing is set.
func (e Egress) IsZero() bool {
	return len(e.Addresses) == 0 && e.Interface == "" && e.Mark == 0 && e.Session == ""
}

// Or fills what e leaves open from more general settings.
func (e Egress) Or(general Egress) Egress {
	if len(e.Addresses) == 0 {
		e.Addresses = general.Addresses
	}
	e.Interface = cmp.Or(e.Interface, general.Interface)
	e.Mark = cmp.Or(e.Mark, general.Mark)
	e.Session = cmp.Or(e.Session, general.Session)
	return e
}

// carries reports whether destinations of a family can be reached at all.
func (e Egress) carries(family resolver.Family) bool {
	if len(e.Addresses) == 0 {
		return true
	}
	for _, p := range e.Addresses {
		if resolver.FamilyOf(p.Addr()) == family {
			return true
		}
	}
	return false
}

// includes reports whether sockets may be bound to an address, which is
// unspecified where the system chooses.
func (e Egress) includes(addr netip.Addr) bool {
	if len(e.Addresses) == 0 {
		return addr.IsUnspecified()
	}
	for _, p := range e.Addresses {
		if p.Contains(addr.WithZone("")) {
			return true
		}
	}
	return false
}

// pick is the source address for one connection to an address of the family,
// and whether it is one of a prefix. It is invalid when any will do.
func (e Egress) pick(family resolver.Family) (src netip.Addr, ofPrefix bool) {
	var fits []netip.Prefix
	for _, p := range e.Addresses {
		if resolver.FamilyOf(p.Addr()) == family {
			fits = append(fits, p)
		}
	}
	if len(fits) == 0 {
		return netip.Addr{}, false
	}
	p, random := fits[0], func(noise []byte) { _, _ = crand.Read(noise) } // never fails: crypto/rand aborts the program
	switch {
	case e.Session != "":
		p = heaviest(e.Session, fits)
		random = noiseOf(e.Session, p)
	case len(fits) > 1:
		p = fits[rand.IntN(len(fits))] //nolint:gosec // spreads load, hides nothing
	}
	if p.IsSingleIP() {
		return p.Addr().Unmap(), false
	}
	return randomOf(p, random), true
}

// randomOf is a host address of a prefix, made of random bytes. The first address, and for
// IPv4 the last one, name the network itself (RFC 919, RFC 4291 §2.6.1) and
// are left out, except in prefixes of two (RFC 3021, RFC 6164).
func randomOf(p netip.Prefix, random func([]byte)) netip.Addr {
	host := p.Addr().BitLen() - p.Bits()
	raw := p.Masked().Addr().AsSlice()
	for {
		noise := make([]byte, len(raw))
		random(noise)
		allZero, allOne := true, true
		out := make([]byte, len(raw))
		for i := range raw {
			// mask has a bit set for each host bit in this byte.
			hostBits := min(max(host-8*(len(raw)-1-i), 0), 8)
			mask := byte(1<<hostBits - 1)
			bits := noise[i] & mask
			allZero = allZero && bits == 0
			allOne = allOne && bits == mask
			out[i] = raw[i] | bits
		}
		if host > 1 && (allZero || (allOne && p.Addr().Is4())) {
			continue
		}
		addr, _ := netip.AddrFromSlice(out)
		return addr
	}
}

// Socket is how a socket is set up that connects to an address. A descriptor takes
// Set, is bound to Source, and connected to To.
type Socket struct {
	To netip.AddrPort
	// Source is where it comes from, with any port; not valid: from wherever the
	// system chooses, without a bind.
	Source    netip.Addr
	NoDelay   bool
	KeepAlive net.KeepAliveConfig
	options   socketOptions
}

// socket is the one for a connection to an address.
func (k connector) socket(to netip.AddrPort, egress Egress) Socket {
	src, ofPrefix := egress.pick(resolver.FamilyOf(to.Addr()))
	return Socket{
		To: to, Source: src, NoDelay: k.noDelay, KeepAlive: k.keepAlive,
		options: socketOptions{
			mark: egress.Mark, device: egress.Interface, congestion: k.congestion,
			fixedSource: src.IsValid(), freeBind: ofPrefix,
		},
	}
}

// connector opens single connections with the socket options of a Dialer.
type connector struct {
	keepAlive  net.KeepAliveConfig
	noDelay    bool
	congestion string
}

// Congestion has a listening socket, and so what comes to it, use a congestion
// control; "": the system's.
func Congestion(name string) func(network, address string, c syscall.RawConn) error {
	return func(network, _ string, c syscall.RawConn) error {
		return socketOptions{congestion: name}.apply(network, c)
	}
}

// connect opens a connection to an address. It ends with the context.
func (k connector) connect(ctx context.Context, to netip.AddrPort, egress Egress) (*net.TCPConn, error) {
	s := k.socket(to, egress)
	d := net.Dialer{KeepAliveConfig: k.keepAlive}
	if !k.keepAlive.Enable {
		d.KeepAlive = -1 * time.Second
	}
	// MPTCP sockets cannot be spliced and cost more to set up.
	d.SetMultipathTCP(false)
	if s.Source.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: s.Source.AsSlice(), Zone: s.Source.Zone()}
	}
	if opts := s.options; opts != (socketOptions{}) {
		d.Control = func(network, _ string, c syscall.RawConn) error { return opts.apply(network, c) }
	}
	network := "tcp4"
	if to.Addr().Is6() {
		network = "tcp6"
	}
	// Not Dialer.DialTCP: given no local address, it binds to port 0 of the
	// unspecified one, which takes a port for all destinations at once and
	// ends at 28,000 connections.
	c, err := d.DialContext(ctx, network, to.String())
	if err != nil {
		return nil, err
	}
	tcp := c.(*net.TCPConn) // what a dial of tcp4 or tcp6 returns
	if !k.noDelay {         // Go turns it on for every connection.
		if err := tcp.SetNoDelay(false); err != nil {
			_ = tcp.Close()
			return nil, err
		}
	}
	return tcp, nil
}
