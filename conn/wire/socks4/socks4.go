// Package socks4 is the bytes of SOCKS4 and its 4a extension, both sides of
// them: what a server reads and answers, and what a client of an upstream
// writes and reads.
//
//	req, err := socks4.ReadRequest(r) // r has the version byte still unread
//	...
//	conn.Write(socks4.AppendReply(nil, wire.ReplySucceeded, bound))
//
// There is no RFC; the notes are Ying-Da Lee's "SOCKS: A protocol for TCP
// proxy across firewalls" and "SOCKS 4A: A Simple Extension to SOCKS 4
// Protocol".
package socks4

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"cleversocks/conn/wire"
)

// Version is the first byte of every request.
const Version = 4

// Bounds of the two fields that end with a NUL and so have no length of
// their own.
const (
	MaxUserID = 255
	MaxName   = 255 // a host in name form, before it is normalised
)

// ReplyLen is the length of every reply.
const ReplyLen = 8

// Errors of ReadRequest and ReadReply; all of a client's are answered 91.
var (
	ErrMalformed = errors.New("socks4: malformed")
	ErrCommand   = errors.New("socks4: command not supported")
	ErrTooLong   = errors.New("socks4: field too long")
)

// Reply codes. 92 and 93 speak of identd alone, which nobody asks here.
const (
	codeGranted  = 90
	codeRejected = 91
)

// Request is what a SOCKS4 client asks for.
type Request struct {
	wire.Request
	// UserID is the raw bytes of the user id field, possibly empty. It is a
	// claim: nothing in the protocol proves it.
	UserID string
}

// ReadRequest reads one request, from the version byte to the last NUL and
// not a byte further: what a client sends behind it stays in r. An address
// of the form 0.0.0.x with x not 0 announces a name (4a).
func ReadRequest(r *bufio.Reader) (Request, error) {
	req := Request{Request: wire.Request{Protocol: wire.SOCKS4}}
	var fixed [8]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return req, fmt.Errorf("socks4: request: %w", err)
	}
	if fixed[0] != Version {
		return req, fmt.Errorf("%w: version %d", ErrMalformed, fixed[0])
	}
	req.Command = wire.Command(fixed[1])
	port := binary.BigEndian.Uint16(fixed[2:4])
	ip := netip.AddrFrom4([4]byte(fixed[4:8]))
	var err error
	if req.UserID, err = readString(r, "user id", MaxUserID); err != nil {
		return req, err
	}
	req.Dest = wire.Addr{IP: ip, Port: port}
	if namesHost(ip) {
		name, err := readString(r, "name", MaxName)
		if err != nil {
			return req, err
		}
		if req.Dest, err = wire.ParseHost(name, port); err != nil {
			return req, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	// The command is judged last: the whole request is read by then, so that
	// the reply is not lost to a reset over unread input.
	switch req.Command {
	case wire.CommandConnect:
		if port == 0 {
			return req, fmt.Errorf("%w: port 0", ErrMalformed)
		}
	case wire.CommandBind:
	default:
		return req, fmt.Errorf("%w: %d", ErrCommand, fixed[1])
	}
	return req, nil
}

// namesHost reports whether an address stands for "a name follows".
func namesHost(ip netip.Addr) bool {
	b := ip.As4()
	return b[0] == 0 && b[1] == 0 && b[2] == 0 && b[3] != 0
}

// readString reads up to and with a NUL, at most limit bytes before it.
func readString(r *bufio.Reader, field string, limit int) (string, error) {
	var b []byte
	for {
		c, err := r.ReadByte()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return "", fmt.Errorf("socks4: %s: %w", field, err)
		}
		if c == 0 {
			return string(b), nil
		}
		if len(b) == limit {
			return "", fmt.Errorf("%w: %s of more than %d bytes", ErrTooLong, field, limit)
		}
		b = append(b, c)
	}
}

// AppendReply appends the eight bytes of a reply: 90 for success, 91 for
// every failure. The bound address is told as it is when it is IPv4; the
// format has no room for IPv6, which is told as 0.0.0.0.
func AppendReply(b []byte, code wire.ReplyCode, bound netip.AddrPort) []byte {
	status := byte(codeRejected)
	if code == wire.ReplySucceeded {
		status = codeGranted
	}
	ip := bound.Addr().Unmap()
	if !ip.Is4() {
		ip = netip.IPv4Unspecified()
	}
	b = append(b, 0, status)
	b = binary.BigEndian.AppendUint16(b, bound.Port())
	return append(b, ip.AsSlice()...)
}
