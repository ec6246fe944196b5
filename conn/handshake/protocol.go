package handshake

import (
	"errors"
	"net/netip"
	"slices"

	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks4"
	"cleversocks/conn/wire/socks5"
)

// The ends of a handshake that was understood, and of one that was not.
var (
	// ErrProtocol is a first byte that begins nothing that is spoken here.
	ErrProtocol = errors.New("unknown protocol")
	// ErrNoMethod is a client that offers no way to log in that it may use.
	ErrNoMethod = errors.New("no acceptable authentication method")
	// ErrCredentials is wrapped by what Denied is told.
	ErrCredentials = errors.New("authentication failed")
	// ErrLogin is a request without credentials where some are needed. It was
	// answered 407 and is no failed authentication: git, Java and
	// curl --proxy-anyauth all ask before they log in.
	ErrLogin = errors.New("no credentials")
)

// protocol is one language's part of the machine.
type protocol struct {
	name wire.Protocol
	// begins reports whether a connection with this first byte speaks it; nil:
	// no byte does.
	begins func(first byte) bool
	// first is the step that finds the first byte unread.
	first step
	// reply appends what tells the client how its request ended.
	reply func(b []byte, m *Machine, code wire.ReplyCode, bound netip.AddrPort) []byte
	// lost ends the handshake of a client that fell silent or left; nil: without
	// a word.
	lost func(m *Machine, err error) Action
}

// protocols are all there are, in the order in which a first byte is compared.
// A row is a protocol's whole registration.
var protocols = [...]protocol{
	{
		name:   wire.SOCKS5,
		begins: func(first byte) bool { return first == socks5.Version },
		first:  (*Machine).methods,
		reply: func(b []byte, _ *Machine, code wire.ReplyCode, bound netip.AddrPort) []byte {
			return socks5.AppendReply(b, code, bound)
		},
	}, {
		name:   wire.SOCKS4,
		begins: func(first byte) bool { return first == socks4.Version },
		first:  (*Machine).socks4Request,
		reply: func(b []byte, _ *Machine, code wire.ReplyCode, bound netip.AddrPort) []byte {
			return socks4.AppendReply(b, code, bound)
		},
	}, {
		name:   wire.HTTP, // all methods begin with a letter
		begins: func(first byte) bool { return 'a' <= first|0x20 && first|0x20 <= 'z' },
		first:  (*Machine).preface,
		reply:  httpReply,
		lost:   (*Machine).httpLost,
	}, {
		name:  wire.Transparent, // the client does not know that it speaks to a proxy
		first: (*Machine).turned,
		reply: func(b []byte, _ *Machine, _ wire.ReplyCode, _ netip.AddrPort) []byte { return b },
	},
}

// spokenBy is the protocol that a first byte begins; nil: none.
func spokenBy(first byte) *protocol {
	for i := range protocols {
		if p := &protocols[i]; p.begins != nil && p.begins(first) {
			return p
		}
	}
	return nil
}

// named is the protocol with a name, which is one of the table.
func named(name wire.Protocol) *protocol {
	i := slices.IndexFunc(protocols[:], func(p protocol) bool { return p.name == name })
	return &protocols[i]
}

// Protocols are the names of all there are: the labels of metrics.
func Protocols() (names []wire.Protocol) {
	for _, p := range protocols {
		names = append(names, p.name)
	}
	return names
}

// Spoken are those that a first byte tells: the values of a listener's protocols.
func Spoken() (names []wire.Protocol) {
	for _, p := range protocols {
		if p.begins != nil {
			names = append(names, p.name)
		}
	}
	return names
}
