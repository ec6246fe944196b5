//go:build !linux

package dial

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// socketOptions are set on a socket before it is bound and connected.
type socketOptions struct {
	mark        uint32
	device      string
	congestion  string
	fixedSource bool
	freeBind    bool
}

// apply refuses what only Linux has.
func (o socketOptions) apply(string, syscall.RawConn) error {
	if o.mark != 0 || o.device != "" || o.congestion != "" || o.freeBind {
		return errors.New("interface, mark, congestion control and source prefixes need Linux")
	}
	return nil
}

// sourceAddr asks the kernel which source address it would take to reach an
// address. It is invalid when there is no route.
func sourceAddr(dst netip.Addr, _ Egress) netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(dst, 9)))
	if err != nil {
		return netip.Addr{}
	}
	defer func() { _ = c.Close() }()
	ap, _ := netip.ParseAddrPort(c.LocalAddr().String())
	return ap.Addr().WithZone("")
}
