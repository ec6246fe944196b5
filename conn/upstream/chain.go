package upstream

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"

	"cleversocks/conn/netaddr"
	"cleversocks/conn/wire"
)

// connector opens prepared connections through a chain.
type connector struct {
	dial    func(ctx context.Context, hop wire.Addr) (*net.TCPConn, error)
	resolve func(ctx context.Context, name string) ([]netip.Addr, error)
	tls     *tls.Config
}

// prepared is a connection that waits for a destination: every hop but the
// last is passed, the last is negotiated with.
type prepared struct {
	conn net.Conn     // raw itself as long as no hop is over TLS
	raw  *net.TCPConn // the socket, for the look at what it holds
}

func (p *prepared) close() { _ = p.raw.Close() }

func (p *prepared) local() netip.AddrPort { return netaddr.Of(p.raw.LocalAddr()) }

// open goes through the chain up to a destination's request. When a first hop
// with a name takes the connection on one address and fails there, its other
// addresses are tried. The first hop gets the header ahead of all else.
func (c *connector) open(ctx context.Context, hops chain, header []byte) (*prepared, *Error) {
	first := hops[0]
	p, fail := c.openAt(ctx, hops, first.addr, header)
	if fail == nil || !first.addr.IsName() || c.resolve == nil || fail.Hop != first.String() || fail.Stage == "dial" {
		return p, fail
	}
	ips, err := c.resolve(ctx, first.addr.Name)
	if err != nil {
		return nil, fail
	}
	for _, ip := range ips[:min(len(ips), maxAddresses)] {
		if ctx.Err() != nil {
			break
		}
		if p, again := c.openAt(ctx, hops, wire.Addr{IP: ip.Unmap(), Port: first.addr.Port}, header); again == nil {
			return p, nil
		}
	}
	return nil, fail
}

// maxAddresses bounds the addresses of one hop that are tried one by one.
const maxAddresses = 16

func (c *connector) openAt(ctx context.Context, hops chain, at wire.Addr, header []byte) (_ *prepared, fail *Error) {
	raw, err := c.dial(ctx, at)
	if err != nil {
		return nil, hopError(hops[0], "dial", err)
	}
	p := &prepared{conn: raw, raw: raw}
	defer func() {
		if fail != nil {
			p.close()
		}
	}()
	// A few bytes, for which a new socket always has room: this cannot block.
	if len(header) > 0 {
		if _, err := raw.Write(header); err != nil {
			return nil, hopError(hops[0], "PROXY header", err)
		}
	}
	for i, hop := range hops {
		if i > 0 {
			if _, fail := request(ctx, p.conn, hops[i-1], hop.addr); fail != nil {
				// The next hop is no destination of the client's: that it
				// cannot be reached is the chain's own fault.
				fail.HopFault = true
				fail.Code = wire.ReplyGeneralFailure
				return nil, named(fail, hops[i-1])
			}
		}
		conn, fail := prepare(ctx, p.conn, hop, c.tls)
		if fail != nil {
			return nil, named(fail, hop)
		}
		p.conn = conn
	}
	return p, nil
}

// named fills in the hop of an error that a deadline made.
func named(e *Error, hop Hop) *Error {
	if e.Hop == "" {
		e.Hop = hop.String()
	}
	return e
}
