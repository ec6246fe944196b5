package dial

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"

	"cleversocks/conn/task"
	"cleversocks/resolver"
)

// Resolve finds a name's addresses for datagrams, for which there is no race:
// of the families in use, in the order of RFC 6724. The name counts as complete
// (see Complete). Once one family has addresses the other one has RFC 8305's
// delay to bring its own: a server that never answers for AAAA holds no datagram
// up. The error is the most telling of both families'.
func (d *Dialer) Resolve(ctx context.Context, name string, egress Egress) ([]netip.Addr, error) {
	if d.opts.Lookup == nil {
		return nil, fmt.Errorf("%w: names are not resolved here", ErrNoUsableAddress)
	}
	egress = egress.Or(d.opts.Egress)
	families := d.families(egress)
	scope, ctx := task.New(ctx, d.opts.Panics, "look-up")
	answers := make(chan answer, len(families)) // nobody waits to be heard
	for _, family := range families {
		scope.Go(func() error {
			addrs, err := d.lookup(ctx, name, family)
			answers <- answer{family: family, addrs: addrs, err: err}
			return nil
		})
	}
	addrs, err := gather(answers, len(families))
	scope.Cancel(context.Canceled)
	_ = scope.Wait() // look-ups end with their context
	if len(addrs) == 0 {
		if err == nil {
			err = ErrNoUsableAddress
		}
		return nil, fmt.Errorf("resolve %s: %w", name, err)
	}
	return sortAddrs(addrs, func(dst netip.Addr) netip.Addr { return d.source(dst, egress) }), nil
}

// gather takes the families' answers. Once there is an address, the other family
// has the resolution delay to add its own (RFC 8305 §3): a server that leaves
// AAAA unanswered must not hold up what goes over IPv4.
func gather(answers <-chan answer, families int) (addrs []netip.Addr, err error) {
	var late <-chan time.Time
	for range families {
		select {
		case a := <-answers:
			addrs = append(addrs, a.addrs...)
			err = worse(err, a.err)
		case <-late:
			return addrs, err
		}
		if len(addrs) > 0 && late == nil {
			timer := time.NewTimer(resolutionDelay)
			defer timer.Stop()
			late = timer.C
		}
	}
	return addrs, err
}

// ListenUDP opens a socket that datagrams leave from, of the network "udp4" or
// "udp6". The caller closes it. Where last is valid it is where an earlier
// socket was: the new one is there too, if the egress still has that address
// and its port is free.
func (d *Dialer) ListenUDP(ctx context.Context, network string, egress Egress, last netip.AddrPort) (*net.UDPConn, error) {
	egress = egress.Or(d.opts.Egress)
	family := resolver.IPv4
	if network == "udp6" {
		family = resolver.IPv6
	}
	if !d.opts.Family.allows(family) || !egress.carries(family) {
		return nil, fmt.Errorf("%w: no source address for %s", ErrNoUsableAddress, family)
	}
	src, ofPrefix := egress.pick(family)
	addresses := []string{":0"}
	if src.IsValid() {
		addresses[0] = netip.AddrPortFrom(src, 0).String()
	}
	if last.IsValid() && egress.includes(last.Addr()) {
		addresses = append([]string{last.String()}, addresses...)
	}
	var lc net.ListenConfig
	opts := socketOptions{mark: egress.Mark, device: egress.Interface, freeBind: ofPrefix}
	if opts != (socketOptions{}) {
		lc.Control = func(network, _ string, c syscall.RawConn) error { return opts.apply(network, c) }
	}
	var socket net.PacketConn
	var err error
	for _, address := range addresses {
		if socket, err = lc.ListenPacket(ctx, network, address); err == nil {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	udp, ok := socket.(*net.UDPConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("a %s socket is a %T", network, socket), socket.Close())
	}
	return udp, nil
}
