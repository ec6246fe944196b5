package socks4

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"cleversocks/conn/wire"
)

// AppendRequest appends a client's request: plain SOCKS4 for an IPv4
// address, 4a for a name. An IPv6 address is sent as a 4a name, which is the
// one way to say it and which servers resolve as the literal that it is.
func AppendRequest(b []byte, cmd wire.Command, dest wire.Addr, userID string) ([]byte, error) {
	if len(userID) > MaxUserID || strings.IndexByte(userID, 0) >= 0 {
		return b, fmt.Errorf("%w: user id", ErrTooLong)
	}
	ip, name := dest.IP, dest.Name
	switch {
	case dest.IsZero():
		return b, fmt.Errorf("%w: no destination", ErrMalformed)
	case dest.IsName():
	case ip.Is4() && !namesHost(ip):
	default:
		name = ip.String()
	}
	if len(name) > MaxName {
		return b, fmt.Errorf("%w: name", ErrTooLong)
	}
	b = append(b, Version, byte(cmd))
	b = binary.BigEndian.AppendUint16(b, dest.Port)
	if name != "" {
		b = append(b, 0, 0, 0, 1)
	} else {
		b = append(b, ip.AsSlice()...)
	}
	b = append(b, userID...)
	b = append(b, 0)
	if name != "" {
		b = append(b, name...)
		b = append(b, 0)
	}
	return b, nil
}

// ReadReply reads the eight bytes of a server's reply and nothing behind
// them. Every refusal is ReplyGeneralFailure: the protocol does not say why.
func ReadReply(r io.Reader) (wire.ReplyCode, netip.AddrPort, error) {
	var b [ReplyLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return 0, netip.AddrPort{}, fmt.Errorf("socks4: reply: %w", err)
	}
	// Some servers send their version instead of the 0 that the text asks for.
	if b[0] != 0 && b[0] != Version {
		return 0, netip.AddrPort{}, fmt.Errorf("%w: reply version %d", ErrMalformed, b[0])
	}
	bound := netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4]))
	switch code := b[1]; {
	case code == codeGranted:
		return wire.ReplySucceeded, bound, nil
	case code > codeGranted && code <= 93:
		return wire.ReplyGeneralFailure, bound, nil
	default:
		return 0, netip.AddrPort{}, fmt.Errorf("%w: reply code %d", ErrMalformed, code)
	}
}
