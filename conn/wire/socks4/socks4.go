// Package socks4 is the bytes of SOCKS4 and its 4a extension, both sides of
// them: what a server reads and answers, and what a client of an upstream
// writes and reads.
//
//	req, n, err := socks4.ParseRequest(b) // wire.ErrShort: read more, ask again
//	...
//	conn.Write(socks4.AppendReply(nil, wire.ReplySucceeded, bound))
//
// There is no RFC; the notes are Ying-Da Lee's "SOCKS: A protocol for TCP
// proxy across firewalls" and "SOCKS 4A: A Simple Extension to SOCKS 4
// Protocol".
package socks4

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
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

// Errors of ParseRequest and ReadReply; all of a client's are answered 91.
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

// headLen is how many bytes stand before the user id.
const headLen = 8

// ParseRequest reads one request, from the version byte to the last NUL, and
// says how many bytes it takes; wire.ErrShort asks for more of them. An address
// of the form 0.0.0.x with x not 0 announces a name (4a). What the client asked
// for is returned beside any other error, as far as it was understood.
func ParseRequest(b []byte) (req Request, n int, err error) {
	req.Protocol = wire.SOCKS4
	if len(b) > 0 && b[0] != Version {
		return req, 0, fmt.Errorf("%w: version %d", ErrMalformed, b[0])
	}
	if len(b) < headLen {
		return req, 0, wire.ErrShort
	}
	req.Command = wire.Command(b[1])
	port := binary.BigEndian.Uint16(b[2:4])
	ip := netip.AddrFrom4([4]byte(b[4:headLen]))
	if req.UserID, n, err = splitString(b, headLen, "user id", MaxUserID); err != nil {
		return req, 0, err
	}
	req.Dest = wire.Addr{IP: ip, Port: port}
	if namesHost(ip) {
		var name string
		if name, n, err = splitString(b, n, "name", MaxName); err != nil {
			return req, 0, err
		}
		if req.Dest, err = wire.ParseHost(name, port); err != nil {
			return req, n, fmt.Errorf("%w: %w", ErrMalformed, err)
		}
	}
	// The command is judged last: the whole request is read by then, so that
	// the reply is not lost to a reset over unread input.
	switch req.Command {
	case wire.CommandConnect:
		if port == 0 {
			return req, n, fmt.Errorf("%w: port 0", ErrMalformed)
		}
	case wire.CommandBind:
	default:
		return req, n, fmt.Errorf("%w: %d", ErrCommand, b[1])
	}
	return req, n, nil
}

// namesHost reports whether an address stands for "a name follows".
func namesHost(ip netip.Addr) bool {
	b := ip.As4()
	return b[0] == 0 && b[1] == 0 && b[2] == 0 && b[3] != 0
}

// splitString is the field that begins at b[at:] and ends with a NUL, at most
// limit bytes before it, and where the next one begins.
func splitString(b []byte, at int, field string, limit int) (text string, next int, err error) {
	rest := b[at:]
	end := bytes.IndexByte(rest, 0)
	if end > limit || end < 0 && len(rest) > limit {
		return "", 0, fmt.Errorf("%w: %s of more than %d bytes", ErrTooLong, field, limit)
	}
	if end < 0 {
		return "", 0, wire.ErrShort
	}
	return string(rest[:end]), at + end + 1, nil
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
