package conn

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"cleversocks/conn/wire"
	"cleversocks/listener/transparent"
)

// errLoop is a connection of ours that the packet filter has turned to us.
var errLoop = errors.New("the connection is this daemon's own: let the packet filter pass what it opens, by egress.mark or its user")

// transparentCodec is no protocol at all: the client believes that it speaks to
// its server. What it asked for is known from the packet filter; a failure
// shows as a reset, which is what it would have met there.
type transparentCodec struct {
	h    *Handler
	mode transparent.Mode
}

func (c transparentCodec) negotiate(hs *handshake) error {
	dest, err := transparent.Destination(hs.socket, c.mode)
	if err != nil {
		return fmt.Errorf("%w: %w", errProtocol, err)
	}
	hs.request = wire.Request{Protocol: wire.Transparent, Command: wire.CommandConnect, Dest: wire.FromAddrPort(dest)}
	if c.h.dialed.has(hs.client) {
		return &refusedError{code: wire.ReplyNotAllowed, err: errLoop}
	}
	identity, free := hs.free()
	if !free {
		// It cannot be asked: no failed authentication.
		return &refusedError{code: wire.ReplyNotAllowed, err: errNoMethod}
	}
	hs.admitted(identity)
	return nil
}

// reply says nothing, since the client has asked nothing. A connection that
// turns out to be our own comes to its end here: what it was dialed by may not
// have been noted yet when it began.
func (c transparentCodec) reply(hs *handshake, code wire.ReplyCode, _ netip.AddrPort) error {
	if code == wire.ReplySucceeded {
		c.h.dialed.add(hs.session)
		if c.h.dialed.has(hs.client) {
			return errLoop
		}
	}
	return nil
}

// dialedSet holds the local ends of what transparent connections have dialed.
// A packet filter that turns those to us again makes a loop of connections,
// each of which has the end of the one before it as its client. The zero value
// is ready.
type dialedSet struct {
	mu   sync.Mutex
	ends map[netip.AddrPort]*session
}

func (d *dialedSet) has(client netip.AddrPort) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ends[client] != nil
}

func (d *dialedSet) add(s *session) {
	if s.server == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ends == nil {
		d.ends = make(map[netip.AddrPort]*session)
	}
	d.ends[addrPort(s.server.LocalAddr())] = s
}

// remove forgets what a session has dialed, if anything.
func (d *dialedSet) remove(s *session) {
	if s.protocol != wire.Transparent || s.server == nil {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if end := addrPort(s.server.LocalAddr()); d.ends[end] == s {
		delete(d.ends, end)
	}
}
