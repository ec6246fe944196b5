package conn

import (
	"net/netip"

	"cleversocks/authsvc"
	"cleversocks/authsvc/gssapi"
	"cleversocks/conn/dial"
	"cleversocks/listener/tlsconf"
	"cleversocks/listener/transparent"
)

// Listener is what one listener's settings mean to its connections.
type Listener struct {
	// Protocols are what is spoken there.
	Protocols Protocols
	// Advertise is the address told to clients in UDP and BIND replies
	// instead of our own; may be invalid.
	Advertise netip.Addr
	// Auth are the kinds of credentials that SOCKS5 and HTTP clients may log in
	// with there, the preferred one first; nil: all that there are.
	Auth []authsvc.Kind
	// AuthFrom are the kinds for a client's address, instead of Auth. Nil, or a nil
	// result: Auth counts.
	AuthFrom func(client netip.Addr) []authsvc.Kind
	// Protection is what is granted to clients that log in by GSSAPI.
	Protection gssapi.Protection
	// Peers are the users of a unix socket whom the kernel's word is enough for, by
	// user id: see OverUnix.
	Peers map[uint32]string
	// Revokes reports client certificates that are revoked by now; nil: none are.
	Revokes func(*tlsconf.Proof) bool
	// Door is what happens before the first byte of a protocol; empty: nothing.
	Door []Step
	// Forwards reports peers that may pass on other clients' connections. The
	// limits by source wait then until the door has told the client's address.
	// nil: nobody does.
	Forwards func(peer netip.Addr) bool
	// Allows reports clients that may come, by the address that the door has
	// told where the peer passes on others' connections. nil: everybody.
	Allows func(client netip.Addr) bool
	// MayLogIn reports who is served here; nil: everybody.
	MayLogIn func(authsvc.Identity) bool
	// Egress is where connections leave from, after what is the user's own.
	// SameEgress: from the address that the client came to.
	Egress     dial.Egress
	SameEgress bool
	// Refuses reports peers that have no business here: they are reset at
	// accept. nil: everybody may come.
	Refuses func(peer netip.Addr) bool
	// Transparent is for connections that a packet filter turns here; no
	// protocol is spoken then.
	Transparent transparent.Mode
	// SNI is what is made of the name in what clients say first.
	SNI SNI
}

// byListener is the rule that a record names where a listener is not for this
// user.
const byListener = "listener"

// byCRL is the same for a client certificate that is revoked.
const byCRL = "crl"

// listener is the policy for connections of one listener. Without any in the
// policy, everything is spoken everywhere; a listener that is missing among
// others was closed by the reload that made this policy, and speaks nothing.
func (p *Policy) listener(name string) Listener {
	if p.Listeners == nil {
		return Listener{Protocols: spoken}
	}
	return p.Listeners[name]
}

// advertised is the address for replies that tell the client where to send
// or connect to, if it is of the family that the client came over; else
// invalid. One of the other family would name a socket that is not there.
func (s *session) advertised() netip.Addr {
	advertise := s.policy.listener(s.listener).Advertise
	if !advertise.IsValid() || advertise.Unmap().Is4() != s.here().Is4() {
		return netip.Addr{}
	}
	return advertise
}
