// Package socks5 is the wire form of SOCKS5: RFC 1928, and RFC 1929 for user
// and password. Every Parse function looks at the bytes that have come so far:
// it takes exactly those of its message, or says wire.ErrShort, or refuses what
// no further byte could make right.
package socks5

import (
	"errors"
	"fmt"
	"net/netip"

	"cleversocks/conn/wire"
)

// Version is the first byte of every SOCKS5 message but those of RFC 1929.
const Version = 0x05

// passwordVersion is the version of the sub-negotiation (RFC 1929 §2).
const passwordVersion = 0x01

// Method is an authentication method (RFC 1928 §3).
type Method uint8

// The methods that are spoken here.
const (
	MethodNone         Method = 0x00
	MethodGSSAPI       Method = 0x01
	MethodPassword     Method = 0x02
	MethodNoAcceptable Method = 0xFF
)

// Methods is the set of methods that a client offers.
type Methods [256 / 64]uint64

// Has reports whether the client offers m.
func (s Methods) Has(m Method) bool { return s[m/64]>>(m%64)&1 == 1 }

// ErrMalformed is wrapped by every error about a peer's bytes but
// wire.ErrShort.
var ErrMalformed = errors.New("malformed SOCKS5 message")

// RequestError is a request that was read whole and cannot be served; Reply
// is what the client is told.
type RequestError struct {
	Reply wire.ReplyCode
	Err   error
}

func (e *RequestError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *RequestError) Unwrap() error { return e.Err }

// MaxMessage is the length of the longest message, in bytes: 3 + 255 + 255
// (RFC 1929 §2).
const MaxMessage = 513

// ParseMethods reads the method selection message (RFC 1928 §3), version byte
// included, and says how many bytes it takes. A client may offer none or all
// 255.
func ParseMethods(b []byte) (offered Methods, n int, err error) {
	if len(b) > 0 && b[0] != Version {
		return offered, 0, fmt.Errorf("%w: version %d", ErrMalformed, b[0])
	}
	if len(b) < 2 || len(b) < 2+int(b[1]) {
		return offered, 0, wire.ErrShort
	}
	n = 2 + int(b[1])
	for _, m := range b[2:n] {
		offered[m/64] |= 1 << (m % 64)
	}
	return offered, n, nil
}

// AppendMethod appends the answer to the method selection. After
// MethodNoAcceptable the client must close the connection.
func AppendMethod(b []byte, m Method) []byte { return append(b, Version, byte(m)) }

// ParseCredentials reads user and password (RFC 1929 §2): raw bytes, either
// may be empty, in b's own memory.
func ParseCredentials(b []byte) (user, password []byte, n int, err error) {
	if len(b) > 0 && b[0] != passwordVersion {
		return nil, nil, 0, fmt.Errorf("%w: user/password version %d", ErrMalformed, b[0])
	}
	if len(b) < 2 {
		return nil, nil, 0, wire.ErrShort
	}
	userEnd := 2 + int(b[1])
	if len(b) <= userEnd {
		return nil, nil, 0, wire.ErrShort
	}
	if n = userEnd + 1 + int(b[userEnd]); len(b) < n {
		return nil, nil, 0, wire.ErrShort
	}
	return b[2:userEnd], b[userEnd+1 : n], n, nil
}

// AppendStatus appends the answer to user and password (RFC 1929 §2). After a
// failure the server must close the connection.
func AppendStatus(b []byte, ok bool) []byte {
	if ok {
		return append(b, passwordVersion, 0x00)
	}
	return append(b, passwordVersion, 0x01)
}

// ParseRequest reads a request (RFC 1928 §4). A *RequestError means that the
// client is owed a reply; what it asked for is returned beside it as far as
// it was understood. The reserved byte is not looked at: clients send
// anything there.
func ParseRequest(b []byte) (req wire.Request, n int, err error) {
	req.Protocol = wire.SOCKS5
	if n, err = requestLen(b); err != nil {
		return req, 0, err
	}
	req.Command = wire.Command(b[1])
	req.Dest, _, err = wire.ParseSOCKS5Addr(b[3:n])
	switch req.Command {
	case wire.CommandConnect, wire.CommandBind:
		if err != nil {
			return req, n, refuse(wire.ReplyGeneralFailure, err)
		}
		if req.Dest.Port == 0 && req.Command == wire.CommandConnect {
			return req, n, refuse(wire.ReplyGeneralFailure, errors.New("port 0"))
		}
	case wire.CommandUDPAssociate:
		// The address is a hint about the client and often nonsense
		// (PySocks sends the name "0"): whatever it is, it ends nothing.
	default:
		return req, n, refuse(wire.ReplyCommandNotSupported, fmt.Errorf("command %d", b[1]))
	}
	return req, n, nil
}

// requestLen is how many bytes a request takes. It judges each byte before it
// asks for the next: a client that has sent all it wants to is owed its reply
// now.
func requestLen(b []byte) (int, error) {
	switch {
	case len(b) == 0:
		return 0, wire.ErrShort
	case b[0] != Version:
		return 0, refuse(wire.ReplyGeneralFailure, fmt.Errorf("version %d in the request", b[0]))
	case len(b) < 4:
		return 0, wire.ErrShort
	case wire.SOCKS5AddrLen(b[3], 0) == 0:
		return 0, refuse(wire.ReplyAddressTypeNotSupported, fmt.Errorf("address type %d", b[3]))
	case len(b) < 5:
		// The shortest address is a name of no bytes: the fifth byte is always
		// there, and tells how many more belong to the message.
		return 0, wire.ErrShort
	}
	n := 3 + wire.SOCKS5AddrLen(b[3], b[4])
	if len(b) < n {
		return 0, wire.ErrShort
	}
	return n, nil
}

func refuse(code wire.ReplyCode, err error) error {
	return &RequestError{Reply: code, Err: fmt.Errorf("%w: %w", ErrMalformed, err)}
}

// AppendReply appends a reply (RFC 1928 §6). The bound address is always
// written as an IP, 0.0.0.0 when there is none: clients refuse names there
// and expect ten bytes of a failure.
func AppendReply(b []byte, code wire.ReplyCode, bound netip.AddrPort) []byte {
	return wire.AppendSOCKS5AddrPort(append(b, Version, byte(code), 0x00), bound)
}
