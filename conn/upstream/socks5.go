package upstream

import (
	"errors"
	"fmt"
	"io"

	"cleversocks/conn/wire"
)

const (
	socks5Version   = 5
	methodNone      = 0x00
	methodPassword  = 0x02
	passwordVersion = 1 // RFC 1929
)

// socks5Negotiate does all that can be done before a destination is known:
// the choice of a method and the authentication (RFC 1928 §3, RFC 1929).
func socks5Negotiate(rw io.ReadWriter, hop Hop) *Error {
	offer := []byte{socks5Version, 1, methodNone}
	if hop.hasAuth {
		offer = []byte{socks5Version, 2, methodNone, methodPassword}
	}
	if _, err := rw.Write(offer); err != nil {
		return hopError(hop, "negotiation", err)
	}
	var reply [2]byte
	if _, err := io.ReadFull(rw, reply[:]); err != nil {
		return hopError(hop, "negotiation", err)
	}
	switch {
	case reply[0] != socks5Version:
		return hopError(hop, "negotiation", fmt.Errorf("%w: version %d", ErrNotSOCKS5, reply[0]))
	case reply[1] == methodNone:
		return nil
	case reply[1] == methodPassword && hop.hasAuth:
		return socks5Authenticate(rw, hop)
	default:
		return hopError(hop, "negotiation", fmt.Errorf("%w: method %#02x", ErrMethods, reply[1]))
	}
}

func socks5Authenticate(rw io.ReadWriter, hop Hop) *Error {
	b := []byte{passwordVersion, byte(len(hop.user))}
	b = append(b, hop.user...)
	b = append(b, byte(len(hop.password)))
	b = append(b, hop.password...)
	if _, err := rw.Write(b); err != nil {
		return hopError(hop, "authentication", err)
	}
	var reply [2]byte
	if _, err := io.ReadFull(rw, reply[:]); err != nil {
		return hopError(hop, "authentication", err)
	}
	// Some servers answer with version 5 here; only the status counts.
	if reply[1] != 0 {
		return hopError(hop, "authentication", ErrCredentials)
	}
	return nil
}

// appendSOCKS5Request appends a request of RFC 1928 §4. The only error is
// wire.ErrLongName.
func appendSOCKS5Request(b []byte, cmd wire.Command, dest wire.Addr) ([]byte, error) {
	return wire.AppendSOCKS5Addr(append(b, socks5Version, byte(cmd), 0), dest)
}

// readSOCKS5Reply reads one reply of RFC 1928 §6 and not a byte behind it.
// A failure's address is read too when it is there, yet what the reply says
// counts even when a server cuts it short after the code.
func readSOCKS5Reply(r io.Reader) (code wire.ReplyCode, bound wire.Addr, err error) {
	var head [4]byte
	n, err := io.ReadFull(r, head[:])
	if err != nil {
		if n >= 2 && head[0] == socks5Version && head[1] != 0 {
			return wire.ReplyCode(head[1]), wire.Addr{}, nil
		}
		return 0, wire.Addr{}, err
	}
	if head[0] != socks5Version {
		return 0, wire.Addr{}, fmt.Errorf("%w: version %d in a reply", ErrNotSOCKS5, head[0])
	}
	code = wire.ReplyCode(head[1])
	if bound, err = readSOCKS5Addr(r, head[3]); err != nil && code == wire.ReplySucceeded {
		return 0, wire.Addr{}, err
	}
	return code, bound, nil
}

func readSOCKS5Addr(r io.Reader, atyp byte) (wire.Addr, error) {
	if wire.SOCKS5AddrLen(atyp, 0) == 0 {
		return wire.Addr{}, fmt.Errorf("%w: address type %d in a reply", ErrNotSOCKS5, atyp)
	}
	start := [2]byte{atyp}
	if _, err := io.ReadFull(r, start[1:]); err != nil {
		return wire.Addr{}, err
	}
	b := make([]byte, wire.SOCKS5AddrLen(atyp, start[1]))
	if _, err := io.ReadFull(r, b[copy(b, start[:]):]); err != nil {
		return wire.Addr{}, err
	}
	addr, _, err := wire.ParseSOCKS5Addr(b)
	if errors.Is(err, wire.ErrBadName) {
		// What a CONNECT's reply names is of no use to us: not an error.
		return addr, nil
	}
	return addr, err
}
