package dial

import (
	"fmt"
	"net/netip"
	"syscall"

	"cleversocks/resolver"
)

// Facing is where a peer looks for this host, to connect to it: the address that
// connections to the peer come from, and what sets up a socket that listens there
// (nil: nothing). A server of FTP, for one, wants the two to be the same. An invalid
// peer is anyone; here is where the client came to, which will do where the address is
// invalid: nothing tells better.
func (d *Dialer) Facing(peer, here netip.Addr, egress Egress) (at netip.Addr, setUp func(network, address string, c syscall.RawConn) error, err error) {
	egress = egress.Or(d.opts.Egress)
	family := resolver.FamilyOf(here)
	if peer.IsValid() {
		family = resolver.FamilyOf(peer)
	}
	if !egress.carries(family) {
		return at, nil, fmt.Errorf("%w: no source address for %s", ErrNoUsableAddress, family)
	}
	at, ofPrefix := egress.pick(family)
	if !at.IsValid() && peer.IsValid() {
		// Within the host all loopback addresses of a family are as good.
		source := d.source(peer, egress)
		if !source.IsLoopback() || !here.IsLoopback() || resolver.FamilyOf(here) != family {
			at = source
		}
	}
	if opts := (socketOptions{mark: egress.Mark, device: egress.Interface, freeBind: ofPrefix}); opts != (socketOptions{}) {
		setUp = func(network, _ string, c syscall.RawConn) error { return opts.apply(network, c) }
	}
	return at, setUp, nil
}
