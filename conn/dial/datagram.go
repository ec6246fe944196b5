package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"cleversocks/resolver"
)

// Resolve finds a name's addresses for datagrams, for which there is no race:
// of the families in use, in the order of RFC 6724. The name counts as complete
// (see Complete). The error is the most telling of both families'.
func (d *Dialer) Resolve(ctx context.Context, name string, egress Egress) ([]netip.Addr, error) {
	if d.opts.Lookup == nil {
		return nil, fmt.Errorf("%w: names are not resolved here", ErrNoUsableAddress)
	}
	egress = egress.Or(d.opts.Egress)
	var (
		families = [...]resolver.Family{resolver.IPv6, resolver.IPv4}
		found    [len(families)][]netip.Addr
		errs     [len(families)]error
		lookups  sync.WaitGroup
	)
	for i, family := range families {
		if d.opts.Family.allows(family) && egress.carries(family) {
			lookups.Go(func() { found[i], errs[i] = d.opts.Lookup(ctx, name, family) })
		}
	}
	lookups.Wait()
	addrs := append(found[0], found[1]...)
	if len(addrs) == 0 {
		err := worse(errs[0], errs[1])
		if err == nil {
			err = ErrNoUsableAddress
		}
		return nil, fmt.Errorf("resolve %s: %w", name, err)
	}
	source := func(dst netip.Addr) netip.Addr { return d.source(dst, egress) }
	return order(addrs, source, netip.Addr{}, 0), nil
}

// ListenUDP opens a socket that datagrams leave from, of the network "udp4" or
// "udp6". The caller closes it.
func (d *Dialer) ListenUDP(ctx context.Context, network string, egress Egress) (*net.UDPConn, error) {
	egress = egress.Or(d.opts.Egress)
	family := resolver.IPv4
	if network == "udp6" {
		family = resolver.IPv6
	}
	if !d.opts.Family.allows(family) || !egress.carries(family) {
		return nil, fmt.Errorf("%w: no source address for %s", ErrNoUsableAddress, family)
	}
	src, ofPrefix := egress.pick(family)
	address := ":0"
	if src.IsValid() {
		address = netip.AddrPortFrom(src, 0).String()
	}
	var lc net.ListenConfig
	opts := socketOptions{mark: egress.Mark, device: egress.Interface, freeBind: ofPrefix}
	if opts != (socketOptions{}) {
		lc.Control = func(network, _ string, c syscall.RawConn) error { return opts.apply(network, c) }
	}
	socket, err := lc.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, err
	}
	udp, ok := socket.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a %s socket is a %T", network, socket), socket.Close())
	}
	return udp, nil
}
