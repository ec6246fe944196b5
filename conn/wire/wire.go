// Package wire holds what every protocol codec shares: addresses, requests,
// commands and reply codes. It is about bytes only: nothing in it opens a
// socket, takes a decision or keeps state.
package wire

import (
	"cmp"
	"fmt"
)

// Protocol is the language a client spoke, by the name that settings, logs and
// metrics have for it. What tells one from another is in package conn.
type Protocol string

// The protocols. Behind Transparent is none: its clients know of no proxy.
const (
	ProtocolUnknown Protocol = "" // not a byte has come, or one that begins nothing
	SOCKS5          Protocol = "socks5"
	SOCKS4          Protocol = "socks4"
	HTTP            Protocol = "http"
	Transparent     Protocol = "transparent"
)

// String is the protocol's name in logs and metrics.
func (p Protocol) String() string { return cmp.Or(string(p), "unknown") }

// Command is what a client asks for. The values are those of RFC 1928 §4;
// SOCKS4 shares the first two and HTTP has the first alone.
type Command uint8

// The commands of RFC 1928 §4.
const (
	CommandConnect      Command = 1
	CommandBind         Command = 2
	CommandUDPAssociate Command = 3
)

// String is the command's name in settings, logs and metrics.
func (c Command) String() string {
	switch c {
	case CommandConnect:
		return "connect"
	case CommandBind:
		return "bind"
	case CommandUDPAssociate:
		return "udp"
	}
	return "unknown"
}

// ReplyCode is the outcome told to a client, in RFC 1928 §6 numbers. The
// SOCKS4 and HTTP codecs translate it to their own.
type ReplyCode uint8

// The reply codes of RFC 1928 §6.
const (
	ReplySucceeded               ReplyCode = 0x00
	ReplyGeneralFailure          ReplyCode = 0x01
	ReplyNotAllowed              ReplyCode = 0x02
	ReplyNetworkUnreachable      ReplyCode = 0x03
	ReplyHostUnreachable         ReplyCode = 0x04
	ReplyConnectionRefused       ReplyCode = 0x05
	ReplyTTLExpired              ReplyCode = 0x06 // also: timed out
	ReplyCommandNotSupported     ReplyCode = 0x07
	ReplyAddressTypeNotSupported ReplyCode = 0x08
)

// String is the code's name in logs and metrics.
func (c ReplyCode) String() string {
	names := [...]string{
		"succeeded", "general_failure", "not_allowed", "network_unreachable", "host_unreachable",
		"connection_refused", "timed_out", "command_not_supported", "address_type_not_supported",
	}
	if int(c) < len(names) {
		return names[c]
	}
	return fmt.Sprintf("reply_%d", uint8(c))
}

// Request is what a client asks for once its handshake is read, whatever the
// protocol.
type Request struct {
	Protocol Protocol
	Command  Command
	Dest     Addr
}
