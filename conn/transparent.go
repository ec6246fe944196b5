package conn

import (
	"fmt"
	"net/netip"

	"cleversocks/conn/wire"
	"cleversocks/listener/transparent"
)

// transparentCodec is no protocol at all: the client believes that it speaks to
// its server. What it asked for is known from the packet filter; a failure
// shows as a reset, which is what it would have met there.
type transparentCodec struct {
	dialed *dialedEnds
	mode   transparent.Mode
}

func (c transparentCodec) negotiate(hs *handshake) error {
	dest, err := transparent.Destination(hs.socket, c.mode)
	if err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	hs.request = wire.Request{Protocol: wire.Transparent, Command: wire.CommandConnect, Dest: wire.FromAddrPort(dest)}
	identity, free := hs.free()
	if !free {
		// It cannot be asked: no failed authentication.
		return mark(errNoMethod, errUnanswered)
	}
	hs.letIn(identity)
	return nil
}

// reply says nothing, since the client has asked nothing. A connection that
// turns out to be our own comes to its end here: what it was dialed by may not
// have been noted yet when it began, as nothing but that has to happen before
// it is accepted.
func (c transparentCodec) reply(hs *handshake, code wire.ReplyCode, _ netip.AddrPort) error {
	if code == wire.ReplySucceeded && c.dialed.own(hs.session) {
		return errLoop
	}
	return nil
}
