package upstream

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/netip"

	"cleversocks/conn/wire"
)

const (
	socks5Version   = 5
	methodNone      = 0x00
	methodPassword  = 0x02
	passwordVersion = 1 // RFC 1929

	atypIPv4 = 1
	atypName = 3
	atypIPv6 = 4
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

// appendSOCKS5Request appends a request of RFC 1928 §4.
func appendSOCKS5Request(b []byte, cmd wire.Command, dest wire.Addr) []byte {
	b = append(b, socks5Version, byte(cmd), 0)
	switch {
	case dest.IsName():
		b = append(b, atypName, byte(len(dest.Name)))
		b = append(b, dest.Name...)
	case dest.IP.Is4():
		b = append(b, atypIPv4)
		b = append(b, dest.IP.AsSlice()...)
	default:
		b = append(b, atypIPv6)
		b = append(b, dest.IP.AsSlice()...)
	}
	return binary.BigEndian.AppendUint16(b, dest.Port)
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
	var size [1]byte
	switch atyp {
	case atypIPv4:
		size[0] = 4
	case atypIPv6:
		size[0] = 16
	case atypName:
		if _, err := io.ReadFull(r, size[:]); err != nil {
			return wire.Addr{}, err
		}
	default:
		return wire.Addr{}, fmt.Errorf("%w: address type %d in a reply", ErrNotSOCKS5, atyp)
	}
	b := make([]byte, int(size[0])+2)
	if _, err := io.ReadFull(r, b); err != nil {
		return wire.Addr{}, err
	}
	host, port := b[:size[0]], binary.BigEndian.Uint16(b[size[0]:])
	if ip, ok := netip.AddrFromSlice(host); ok && atyp != atypName {
		return wire.Addr{IP: ip.Unmap(), Port: port}, nil
	}
	addr, err := wire.ParseHost(string(host), port)
	if err != nil {
		// What a CONNECT's reply names is of no use to us: not an error.
		return wire.Addr{Port: port}, nil //nolint:nilerr // see above
	}
	return addr, nil
}
