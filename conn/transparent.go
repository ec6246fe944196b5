package conn

import (
	"fmt"
	"net/netip"

	"cleversocks/conn/handshake"
	"cleversocks/conn/wire"
	"cleversocks/listener/transparent"
)

// turned is where a packet filter says that the session's client wants to go;
// invalid where clients say so themselves. A client of a transparent listener
// believes that it speaks to its server: a failure shows as a reset, which is
// what it would have met there.
func (d *driver) turned(l Listener) (netip.AddrPort, error) {
	if l.Transparent == transparent.Off {
		return netip.AddrPort{}, nil
	}
	d.speaks(wire.Transparent)
	dest, err := transparent.Destination(d.socket, l.Transparent)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%w: %w", handshake.ErrProtocol, err)
	}
	return dest, nil
}
