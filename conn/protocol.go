package conn

import (
	"fmt"
	"slices"
	"strings"

	"cleversocks/conn/cause"
	"cleversocks/conn/task"
	"cleversocks/conn/wire"
	"cleversocks/conn/wire/socks4"
	"cleversocks/conn/wire/socks5"
	"cleversocks/listener/transparent"
	"cleversocks/metrics"
)

// protocol is a language that clients speak.
type protocol struct {
	// name is what settings, logs and metrics call it.
	name wire.Protocol
	// begins reports whether a connection with this first byte speaks it. Nil:
	// no byte tells, since the client does not know that it speaks to a proxy.
	begins func(first byte) bool
	// codec is the protocol's side of the handshake.
	codec func(*Handler, Listener) codec
}

// protocols are all there are. A row is a protocol's whole registration: the
// setting listener.protocols and its documentation, the labels of metrics,
// `explain`, and the order in which a first byte is compared come from here.
var protocols = []protocol{
	{
		name:   wire.SOCKS5,
		begins: func(first byte) bool { return first == socks5.Version },
		codec:  func(h *Handler, _ Listener) codec { return socks5Codec{&h.login} },
	}, {
		name:   wire.SOCKS4,
		begins: func(first byte) bool { return first == socks4.Version },
		codec:  func(h *Handler, _ Listener) codec { return socks4Codec{&h.login} },
	}, {
		name:   wire.HTTP, // all methods begin with a letter
		begins: func(first byte) bool { return 'a' <= first|0x20 && first|0x20 <= 'z' },
		codec:  func(h *Handler, _ Listener) codec { return h.http() },
	}, {
		name:  wire.Transparent,
		codec: func(h *Handler, l Listener) codec { return transparentCodec{dialed: &h.dialed, mode: l.Transparent} },
	},
}

// spoken are those that a first byte tells.
var spoken = func() (names Protocols) {
	for _, p := range protocols {
		if p.begins != nil {
			names = append(names, p.name)
		}
	}
	return names
}()

// Protocols are protocols of a listener.
type Protocols []wire.Protocol

// Spoken are the protocols that a listener may speak, in the order in which
// they are told apart.
func Spoken() Protocols { return slices.Clone(spoken) }

// Has reports whether p is one of them.
func (list Protocols) Has(p wire.Protocol) bool { return slices.Contains(list, p) }

// Speaks says in words what is spoken at a listener.
func (l Listener) Speaks() string {
	if l.Transparent != transparent.Off {
		return "takes connections that a packet filter turns to it"
	}
	names := make([]string, 0, len(l.Protocols))
	for _, p := range l.Protocols {
		names = append(names, p.String())
	}
	return "speaks " + strings.Join(names, ", ")
}

// protocolAt is what a listener's client speaks, by its first byte; first is
// only asked for where that tells.
func protocolAt(l Listener, first func() (byte, error)) (protocol, error) {
	if l.Transparent != transparent.Off {
		return protocols[slices.IndexFunc(protocols, func(p protocol) bool { return p.name == wire.Transparent })], nil
	}
	b, err := first()
	if err != nil {
		return protocol{}, err
	}
	i := slices.IndexFunc(protocols, func(p protocol) bool { return p.begins != nil && p.begins(b) })
	switch {
	case i < 0:
		return protocol{}, fmt.Errorf("%w: first byte %#02x", errProtocol, b)
	case !l.Protocols.Has(protocols[i].name):
		return protocol{}, fmt.Errorf("%w: %s is not spoken on this listener", errProtocol, protocols[i].name)
	}
	return protocols[i], nil
}

// Labels are the values that the labels of metrics have here.
func Labels() metrics.Labels {
	l := metrics.Labels{Causes: cause.Tunnel(), Panics: task.Places()}
	for _, p := range protocols {
		l.Protocols = append(l.Protocols, p.name.String())
	}
	return l
}
