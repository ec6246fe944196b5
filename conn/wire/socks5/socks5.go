// Package socks5 is the wire form of SOCKS5: RFC 1928, and RFC 1929 for user
// and password. Every Read function takes exactly the bytes of its message
// from a reader, however they are cut into segments, and leaves what is behind
// it there.
package socks5

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
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

// ErrMalformed is wrapped by every error about a peer's bytes, as opposed to
// errors of reading them.
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

// MinBuffer is the least buffer, in bytes, of the readers given to this
// package: the longest message is 3 + 255 + 255 bytes (RFC 1929 §2).
const MinBuffer = 513

// ReadMethods reads the method selection message (RFC 1928 §3), version byte
// included. A client may offer none or all 255.
func ReadMethods(r *bufio.Reader) (Methods, error) {
	var offered Methods
	head, err := peek(r, 2)
	if err != nil {
		return offered, err
	}
	if head[0] != Version {
		return offered, fmt.Errorf("%w: version %d", ErrMalformed, head[0])
	}
	msg, err := peek(r, 2+int(head[1]))
	if err != nil {
		return offered, err
	}
	for _, m := range msg[2:] {
		offered[m/64] |= 1 << (m % 64)
	}
	return offered, discard(r, len(msg))
}

// WriteMethod answers the method selection. After MethodNoAcceptable the
// client must close the connection.
func WriteMethod(w io.Writer, m Method) error {
	_, err := w.Write([]byte{Version, byte(m)})
	return err
}

// ReadCredentials reads user and password (RFC 1929 §2): raw bytes, either
// may be empty. The slices are the caller's.
func ReadCredentials(r *bufio.Reader) (user, password []byte, err error) {
	head, err := peek(r, 2)
	if err != nil {
		return nil, nil, err
	}
	if head[0] != passwordVersion {
		return nil, nil, fmt.Errorf("%w: user/password version %d", ErrMalformed, head[0])
	}
	userEnd := 2 + int(head[1])
	head, err = peek(r, userEnd+1)
	if err != nil {
		return nil, nil, err
	}
	msg, err := peek(r, userEnd+1+int(head[userEnd]))
	if err != nil {
		return nil, nil, err
	}
	user = bytes.Clone(msg[2:userEnd])
	password = bytes.Clone(msg[userEnd+1:])
	clear(msg[userEnd+1:]) // the buffer is reused by other connections
	return user, password, discard(r, len(msg))
}

// WriteStatus answers user and password (RFC 1929 §2). After a failure the
// server must close the connection.
func WriteStatus(w io.Writer, ok bool) error {
	status := byte(0x00)
	if !ok {
		status = 0x01
	}
	_, err := w.Write([]byte{passwordVersion, status})
	return err
}

// ReadRequest reads a request (RFC 1928 §4). A *RequestError means that the
// client is owed a reply; what it asked for is returned beside it as far as
// it was understood. The reserved byte is not looked at: clients send
// anything there.
func ReadRequest(r *bufio.Reader) (wire.Request, error) {
	req := wire.Request{Protocol: wire.SOCKS5}
	msg, err := peekRequest(r)
	if err != nil {
		return req, err
	}
	req.Command = wire.Command(msg[1])
	addr, _, err := wire.ParseSOCKS5Addr(msg[3:])
	req.Dest = addr
	if derr := discard(r, len(msg)); derr != nil {
		return req, derr
	}
	switch req.Command {
	case wire.CommandConnect, wire.CommandBind:
		if err != nil {
			return req, refuse(wire.ReplyGeneralFailure, err)
		}
		if addr.Port == 0 && req.Command == wire.CommandConnect {
			return req, refuse(wire.ReplyGeneralFailure, errors.New("port 0"))
		}
	case wire.CommandUDPAssociate:
		// The address is a hint about the client and often nonsense
		// (PySocks sends the name "0"): whatever it is, it ends nothing.
	default:
		return req, refuse(wire.ReplyCommandNotSupported, fmt.Errorf("command %d", msg[1]))
	}
	return req, nil
}

// peekRequest waits for a whole request and returns its bytes, still in the
// reader's buffer. It judges each byte before it waits for the next: a client
// that has sent all it wants to is owed its reply now.
func peekRequest(r *bufio.Reader) ([]byte, error) {
	head, err := peek(r, 1)
	if err != nil {
		return nil, err
	}
	if head[0] != Version {
		return nil, refuse(wire.ReplyGeneralFailure, fmt.Errorf("version %d in the request", head[0]))
	}
	if head, err = peek(r, 4); err != nil {
		return nil, err
	}
	if wire.SOCKS5AddrLen(head[3], 0) == 0 {
		return nil, refuse(wire.ReplyAddressTypeNotSupported, fmt.Errorf("address type %d", head[3]))
	}
	// The shortest address is a name of no bytes: the fifth byte is always
	// there, and tells how many more belong to the message.
	if head, err = peek(r, 5); err != nil {
		return nil, err
	}
	return peek(r, 3+wire.SOCKS5AddrLen(head[3], head[4]))
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

// peek waits for n bytes. An end inside of them is io.ErrUnexpectedEOF, one
// before them io.EOF.
func peek(r *bufio.Reader, n int) ([]byte, error) {
	b, err := r.Peek(n)
	if errors.Is(err, io.EOF) && len(b) > 0 {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}

func discard(r *bufio.Reader, n int) error {
	_, err := r.Discard(n)
	return err
}
